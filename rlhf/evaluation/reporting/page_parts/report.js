"use strict";
// Model output is inserted as text nodes, never parsed as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const rows = document.getElementById("rows");
const facetLabels = { held_out: "novelty" };
const chosen = { sample: 0, outcome: "", reward: 0, order: "", search: "", facets: {}, hidden: new Set() };

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function cell(entry, model) {
  const made = element("section", undefined, { class: "cell", "aria-label": model });
  made.hidden = chosen.hidden.has(model);
  const response = entry.responses[model][chosen.sample];
  const text = element("p", undefined, { class: "text", dir: "auto" });
  response.pieces.forEach((piece, i) => {
    if (piece) text.append(i % 2 ? element("mark", piece) : document.createTextNode(piece));
  });
  if (!response.pieces.join("").trim()) text.append(element("em", "(empty)"));
  if (response.pieces.join("").length > 1500) text.tabIndex = 0; // scrollable text must be reachable by keyboard
  const facts = data.rewards.map((reward, i) => `${reward} ${response.scores[i].toFixed(2)}`);
  if (response.kl !== undefined) facts.push(`KL ${response.kl.toFixed(2)}`);
  facts.push(response.tokens === 1 ? "1 token" : `${response.tokens} tokens`);
  const below = element("p", facts.join(" · "), { class: "facts" });
  if (!response.ended) below.append(element("span", " · no EOS", { class: "warn" }));
  if (response.cut) below.append(element("span", ` · ${response.cut} more characters in responses.jsonl`));
  made.append(element("h4", model), text, below);
  return made;
}

function fill(row) {
  const entry = data.prompts[row.dataset.index];
  const columns = element("div", undefined, { class: "columns" });
  columns.append(...data.models.map((model) => cell(entry, model)));
  row.querySelector(".columns")?.remove();
  row.append(columns);
  row.dataset.filled = "yes";
}

function header(entry) {
  const title = element("h3", undefined, { dir: "auto" });
  entry.prompt.forEach(([role, content], i) => {
    const known = role && entry.prompt.length > 1;
    if (known) title.append(element("span", `${i ? "\n" : ""}${role}: `, { class: "role" }));
    title.append(document.createTextNode(content));
  });
  const tags = Object.entries(entry.facets).map(([facet, kind]) => `${facetLabels[facet] ?? facet}: ${kind}`);
  return tags.length ? [title, element("p", tags.join(" · "), { class: "tags" })] : [title];
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting && !entry.target.dataset.filled) fill(entry.target);
}, { rootMargin: "800px" });

const articles = data.prompts.map((entry, index) => {
  const row = element("article", undefined, { class: "row", tabindex: "-1", "data-index": index });
  row.append(...header(entry));
  seen.observe(row);
  return row;
});
const said = new Map();

function searchable(index) {
  if (!said.has(index)) {
    const entry = data.prompts[index];
    const responses = Object.values(entry.responses).flat().map((response) => response.pieces.join(""));
    said.set(index, [...entry.prompt.map((turn) => turn[1]), ...responses].join("\n").toLowerCase());
  }
  return said.get(index);
}

function gap(entry, model) {
  return entry.means[model][chosen.reward] - entry.means[data.reference][chosen.reward];
}

function shown(entry, index) {
  for (const [facet, kind] of Object.entries(chosen.facets)) if (kind && entry.facets[facet] !== kind) return false;
  if (chosen.outcome) {
    const [outcome, model] = JSON.parse(chosen.outcome);
    const difference = gap(entry, model);
    if (outcome === "lost" && difference >= 0) return false;
    if (outcome === "won" && difference <= 0) return false;
    if (outcome === "tied" && difference !== 0) return false;
  }
  return !chosen.search || searchable(index).includes(chosen.search);
}

function update() {
  let order = articles.map((row, index) => index);
  if (chosen.order) order.sort((a, b) => gap(data.prompts[a], chosen.order) - gap(data.prompts[b], chosen.order));
  const parts = document.createDocumentFragment();
  let count = 0;
  for (const index of order) {
    articles[index].hidden = !shown(data.prompts[index], index);
    if (!articles[index].hidden) count += 1;
    parts.append(articles[index]);
  }
  rows.replaceChildren(parts);
  document.getElementById("count").textContent = `${count} of ${data.prompts.length} prompts`;
}

function refill() {
  for (const row of articles) if (row.dataset.filled) fill(row);
}

function choice(title, name, options, changed) {
  const label = element("label", `${title} `);
  const select = element("select", undefined, { name });
  for (const [value, text] of options) select.append(element("option", text, { value }));
  select.addEventListener("change", () => changed(select.value));
  label.append(select);
  return label;
}

function outcomes() {
  const found = [["", "all"]];
  for (const model of data.models) {
    if (model === data.reference) continue;
    for (const [outcome, verb] of [["lost", "lost to"], ["won", "beat"], ["tied", "tied with"]]) {
      found.push([JSON.stringify([outcome, model]), `${model} ${verb} ${data.reference}`]);
    }
  }
  return found;
}

function build() {
  const show = document.getElementById("show");
  for (const [facet, kinds] of Object.entries(data.facets)) {
    const options = [["", "all"], ...kinds.map((kind) => [kind, kind])];
    show.append(choice(facetLabels[facet] ?? facet, facet, options, (kind) => { chosen.facets[facet] = kind; update(); }));
  }
  if (data.rewards.length) {
    show.append(choice("outcome", "outcome", outcomes(), (value) => { chosen.outcome = value; update(); }));
    const by = data.rewards.map((reward, i) => [i, reward]);
    show.append(choice("judged by", "reward", by, (value) => { chosen.reward = Number(value); update(); }));
    const others = data.models.filter((model) => model !== data.reference);
    const orders = [["", "default"], ...others.map((model) => [model, `${model}'s largest loss first`])];
    show.append(choice("order", "order", orders, (value) => { chosen.order = value; update(); }));
  }
  if (data.samples > 1) {
    const numbers = Array.from({ length: data.samples }, (_, i) => [i, i + 1]);
    show.append(choice("sample", "sample", numbers, (value) => { chosen.sample = Number(value); refill(); }));
  }
  const search = element("label", "search ");
  const field = element("input", undefined, { type: "search", name: "search" });
  field.addEventListener("input", () => { chosen.search = field.value.toLowerCase(); update(); });
  search.append(field);
  show.append(search);
  for (const model of data.models) {
    const label = element("label");
    const box = element("input", undefined, { type: "checkbox", name: "stage" });
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) chosen.hidden.delete(model); else chosen.hidden.add(model);
      refill();
    });
    label.append(box, document.createTextNode(model));
    document.getElementById("stages").append(label);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
}

function move(step) {
  const visible = [...rows.children].filter((row) => !row.hidden);
  const place = visible.indexOf(document.activeElement.closest?.("#rows .row"));
  const next = visible[Math.min(Math.max(place + step, 0), visible.length - 1)];
  if (next) { next.focus(); next.scrollIntoView({ block: "center" }); }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "/") { event.preventDefault(); form.elements.search.focus(); }
});

addEventListener("beforeprint", () => articles.forEach((row) => row.dataset.filled || fill(row)));

build();
update();
