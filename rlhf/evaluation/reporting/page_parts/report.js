"use strict";
// Model output is inserted as text nodes, never parsed as markup.
const PAGE = 20;
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const rows = document.getElementById("rows");
const more = document.getElementById("more");
const said = new Map();
let matching = [];

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function cell(entry, model, sample) {
  const made = element("section", undefined, { class: "cell", "aria-label": data.titles[model] });
  const response = entry.responses[model][sample];
  const text = element("p", undefined, { class: "text", dir: "auto" });
  response.pieces.forEach((piece, i) => {
    if (piece) text.append(i % 2 ? element("mark", piece) : document.createTextNode(piece));
  });
  const length = response.pieces.join("").length;
  if (!response.pieces.join("").trim()) text.append(element("em", "(empty)"));
  if (length > 1500) text.tabIndex = 0; // scrollable text must be reachable by keyboard
  const facts = data.rewards.map((reward, i) => `${reward} ${response.scores[i].toFixed(2)}`);
  if (response.kl !== undefined) facts.push(`KL ${response.kl.toFixed(2)}`);
  facts.push(response.tokens === 1 ? "1 token" : `${response.tokens} tokens`);
  const below = element("p", facts.join(" · "), { class: "facts" });
  if (!response.ended) below.append(element("span", " · no EOS", { class: "warn" }));
  if (response.cut) below.append(element("span", ` · ${response.cut} more characters in responses.jsonl`));
  made.append(element("h5", data.titles[model]), text, below);
  return made;
}

function article(entry, chosen) {
  const row = element("article", undefined, { class: "row", tabindex: "-1" });
  const title = element("h4", undefined, { dir: "auto" });
  entry.prompt.forEach(([role, content], i) => {
    const known = role && entry.prompt.length > 1;
    if (known) title.append(element("span", `${i ? "\n" : ""}${role}: `, { class: "role" }));
    title.append(document.createTextNode(content));
  });
  const tags = Object.values(entry.facets).map((kind) => kind.replaceAll("_", " "));
  const gaps = Object.entries(entry.gaps).filter(([, by]) => by[chosen.judge] !== null);
  const signed = gaps.map(([model, by]) => `${data.titles[model]} ${by[chosen.judge] < 0 ? "" : "+"}${by[chosen.judge].toFixed(2)}`);
  if (signed.length) tags.push(`${data.judges[chosen.judge]} vs the stage before: ${signed.join(", ")}`);
  const columns = element("div", undefined, { class: "columns" });
  columns.append(...data.models.filter((model) => chosen.columns.includes(model)).map((model) => cell(entry, model, chosen.sample)));
  row.append(title, element("p", tags.join(" · "), { class: "tags" }), columns);
  return row;
}

function choices() {
  const given = new FormData(form);
  const facets = Object.keys(data.facets).map((facet) => [facet, given.get(`facet.${facet}`)]);
  return {
    stage: given.get("stage") ?? "", result: given.get("result") ?? "", judge: Number(given.get("judge") ?? 0),
    sample: Number(given.get("sample") ?? 0), search: given.get("search").toLowerCase(), columns: given.getAll("column"),
    facets: facets.filter(([, kind]) => kind),
  };
}

function searchable(entry) {
  if (!said.has(entry)) {
    const responses = Object.values(entry.responses).flat().map((response) => response.pieces.join(""));
    said.set(entry, [...entry.prompt.map((turn) => turn[1]), ...responses].join("\n").toLowerCase());
  }
  return said.get(entry);
}

function outcome(gap) {
  if (gap === null) return "";
  return gap < 0 ? "lost" : gap > 0 ? "won" : "tied";
}

// Without a stage, a result of any stage counts: its largest gap decides the order.
function gap(entry, chosen) {
  const stages = chosen.stage ? [chosen.stage] : Object.keys(data.parents);
  const found = stages.map((stage) => entry.gaps[stage][chosen.judge]).filter((value) => outcome(value) === chosen.result);
  return found.length ? Math.max(...found.map(Math.abs)) : null;
}

function update() {
  const chosen = choices();
  matching = data.prompts.filter(
    (entry) =>
      chosen.facets.every(([facet, kind]) => entry.facets[facet] === kind) &&
      (!chosen.result || gap(entry, chosen) !== null) &&
      (!chosen.search || searchable(entry).includes(chosen.search)),
  );
  if (chosen.result) matching.sort((a, b) => gap(b, chosen) - gap(a, chosen));
  rows.replaceChildren();
  document.getElementById("count").textContent = `${matching.length} of ${data.prompts.length} prompts`;
  append();
}

function append() {
  const chosen = choices();
  const next = matching.slice(rows.children.length, rows.children.length + PAGE).map((entry) => article(entry, chosen));
  rows.append(...next);
  const left = matching.length - rows.children.length;
  more.hidden = left === 0;
  more.textContent = `Show ${Math.min(left, PAGE)} more of ${left}`;
  return next[0];
}

function move(step) {
  const place = [...rows.children].indexOf(document.activeElement.closest?.("#rows .row")) + step;
  if (place >= rows.children.length) append();
  const next = rows.children[Math.min(Math.max(place, 0), rows.children.length - 1)];
  if (next) { next.focus(); next.scrollIntoView({ block: "center" }); }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "/") { event.preventDefault(); form.elements.search.focus(); }
});

for (const link of document.querySelectorAll(".all")) {
  link.addEventListener("click", () => {
    form.reset();
    form.elements.stage.value = link.dataset.stage;
    form.elements.result.value = "lost";
    update();
  });
}

// A closed disclosure is not printed.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", update);
form.elements.search.addEventListener("input", update);
more.addEventListener("click", () => append()?.focus());
form.hidden = false;
update();
