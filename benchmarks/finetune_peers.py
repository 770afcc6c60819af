"""fastai's and timm's fine-tuning for benchmarks/finetune.py; runs in any Python that has them: finetune_peers.py JOB.

JOB is a json file (see `peer` there). Writes json: seconds (the start of Python and imports left out, which favours
the peer), epochs, and the labels of the test rows.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(told: str) -> None:
    import torch

    job = json.loads(Path(told).read_text())
    torch.set_num_threads(job["cores"])
    work = {"fastai": fastai, "timm": timm}[job["peer"]]
    pace = Path(job["pace"])
    if not pace.exists():  # a trial of one and of two epochs: what an epoch costs, and all the rest
        one, two = work(job, 1)[0], work(job, 2)[0]
        pace.write_text(json.dumps({"epoch": two - one, "rest": max(0.0, 2 * one - two)}))
    costs = json.loads(pace.read_text())
    epochs = max(1, int((job["seconds"] - costs["rest"]) / costs["epoch"]))
    seconds, labels = work(job, epochs)
    Path(job["to"]).write_text(json.dumps({"seconds": seconds, "epochs": epochs, "labels": labels}))


def fastai(job: dict, epochs: int) -> tuple[float, list[str]]:
    """`vision_learner(...).fine_tune`: one epoch of the head and the norms, then all layers; TTA on the test rows."""
    import timm as models
    import torch
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    set_seed(job["seed"], reproducible=True)
    began = time.perf_counter()
    size = job["size"]
    loaders = ImageDataLoaders.from_lists(
        "/",
        job["train"],
        job["labels"],
        valid_pct=0.2,
        seed=job["seed"],
        item_tfms=Resize(size * 3 // 2),
        batch_tfms=[*aug_transforms(size=size, min_scale=0.75), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
        bs=job["batch"],
        num_workers=job["cores"],
    )
    learner = vision_learner(loaders, job["model"], pretrained=False, normalize=False, metrics=accuracy)
    body = models.create_model(job["model"])
    body.load_state_dict(torch.load(job["weights"], weights_only=True))
    missing = learner.model[0].model.load_state_dict(body.state_dict(), strict=False).missing_keys
    assert not missing, missing
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(max(1, epochs - 1), freeze_epochs=1)
        pred, _ = learner.tta(dl=loaders.test_dl(job["test"]))
    return time.perf_counter() - began, [str(loaders.vocab[i]) for i in pred.argmax(1).tolist()]


def timm(job: dict, epochs: int) -> tuple[float, list[str]]:
    """timm's transforms, optimiser and schedule: AdamW at 1e-3, label smoothing 0.1, one epoch of warm-up, cosine."""
    import numpy as np
    import timm as models
    import torch
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    torch.manual_seed(job["seed"])
    began = time.perf_counter()
    names = sorted(set(job["labels"]))
    rows = np.random.default_rng(job["seed"]).permutation(len(job["train"]))[len(job["train"]) // 5 :]
    network = models.create_model(job["model"], num_classes=1000)
    network.load_state_dict(torch.load(job["weights"], weights_only=True))
    network.reset_classifier(len(names))
    network.to(memory_format=torch.channels_last)
    shape = {**resolve_model_data_config(network), "input_size": (3, job["size"], job["size"])}
    shape.update(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)

    class Files(torch.utils.data.Dataset):
        def __init__(self, files: list[str], labels: list[int], transform: object) -> None:
            self.files, self.labels, self.transform = files, labels, transform

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, i: int) -> tuple[object, int]:
            return self.transform(Image.open(self.files[i]).convert("RGB")), self.labels[i]

    train = Files(
        [job["train"][i] for i in rows],
        [names.index(job["labels"][i]) for i in rows],
        create_transform(**shape, is_training=True, color_jitter=0.4),
    )
    test = Files(job["test"], [0] * len(job["test"]), create_transform(**shape))
    workers = {"num_workers": job["cores"], "persistent_workers": True}
    batches = torch.utils.data.DataLoader(train, job["batch"], shuffle=True, drop_last=True, **workers)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05)
    schedule, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=epochs,
        warmup_epochs=min(1, epochs - 1),
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=len(batches),
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    step = 0
    for _ in range(epochs):
        network.train()
        for x, y in batches:
            schedule.step_update(step)
            loss = loss_of(network(x.contiguous(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    network.eval()
    with torch.no_grad():
        pred = torch.cat([network(x) for x, _ in torch.utils.data.DataLoader(test, 64, num_workers=job["cores"])])
    return time.perf_counter() - began, [names[i] for i in pred.argmax(1).tolist()]


if __name__ == "__main__":
    main(sys.argv[1])
