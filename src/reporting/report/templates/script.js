"use strict";
// Cards: filters, the first of them until more are asked for, and a closer look on click.
const FIRST = 48;
const closer = document.getElementById("closer");
let around = [], at = 0;

for (const group of document.querySelectorAll(".cards")) {
  const items = [...group.querySelectorAll("li")], choices = [...group.querySelectorAll("select")];
  const more = group.querySelector(".more"), count = group.querySelector(".count");
  let all = false;

  function show() {
    const asked = choices.filter((choice) => choice.value !== "");
    const fit = items.filter((item) => asked.every(
      (choice) => (item.dataset[choice.dataset.mark] || "").split("\t").includes(choice.value)));
    const shown = new Set(all ? fit : fit.slice(0, FIRST));
    for (const item of items) item.hidden = !shown.has(item);
    count.textContent = fit.length === 0 ? "No row is like this."
      : shown.size < fit.length ? `The first ${shown.size} of ${fit.length} rows`
      : `${fit.length} of ${items.length} rows`;
    more.hidden = shown.size === fit.length;
    more.textContent = `Show all ${fit.length}`;
  }

  for (const choice of choices) choice.addEventListener("change", () => { all = false; show(); });
  more.addEventListener("click", () => { all = true; show(); });
  group.addEventListener("submit", (event) => event.preventDefault());
  group.querySelector("ul").addEventListener("click", (event) => {
    const button = event.target.closest("li > button");
    if (!button) return;
    around = items.filter((item) => !item.hidden).map((item) => item.firstElementChild);
    open(around.indexOf(button));
  });
  show();
}

function open(place) {
  at = place;
  const button = around[at], image = button.querySelector("img");
  document.getElementById("closer-title").textContent = button.parentElement.dataset.id;
  const big = document.getElementById("closer-image"), heat = document.getElementById("closer-heat");
  big.parentElement.hidden = !image;
  if (image) { big.src = image.src; big.alt = image.alt; }
  document.getElementById("closer-heated").hidden = !button.dataset.heat;
  if (button.dataset.heat) { heat.src = button.dataset.heat; heat.alt = "where the evidence for the prediction is"; }
  const facts = document.getElementById("closer-facts");
  facts.replaceChildren(...[...button.querySelectorAll(".facts > span")].flatMap((fact) => {
    const name = document.createElement("dt"), value = document.createElement("dd");
    name.textContent = fact.dataset.name;
    value.textContent = fact.querySelector("b").textContent;
    return [name, value];
  }));
  if (!closer.open) closer.showModal();
}

closer.addEventListener("click", (event) => { if (event.target === closer) closer.close(); });
closer.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && around[at + step]) { open(at + step); event.preventDefault(); }
});
closer.addEventListener("close", () => { if (around[at]) around[at].focus(); });

// the section that is being read
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }
}, { rootMargin: "-10% 0px -80% 0px" });
for (const section of document.querySelectorAll("main > section")) reading.observe(section);
