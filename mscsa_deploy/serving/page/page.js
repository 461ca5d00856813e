"use strict";

const byId = (id) => document.getElementById(id);
const models = new Map();

function headers() {
  const token = byId("token").value;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (response.ok) return response;
  if (response.status === 401) byId("token-box").hidden = false;
  const problem = await response.json().catch(() => ({ error: response.statusText }));
  throw new Error(problem.error);
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

function rows(table, entries) {
  const body = table.tBodies[0];
  body.replaceChildren();
  for (const [label, value, color] of entries) {
    const row = body.insertRow();
    const cell = row.insertCell();
    if (color) {
      const swatch = document.createElement("canvas");
      swatch.width = swatch.height = 14;
      swatch.className = "swatch";
      const context = swatch.getContext("2d");
      context.fillStyle = `rgb(${color.join(",")})`;
      context.fillRect(0, 0, 14, 14);
      cell.append(swatch);
    }
    cell.append(label);
    row.insertCell().textContent = value;
  }
}

function timings(response, total) {
  const parts = (response.headers.get("server-timing") || "").split(", ").filter(Boolean);
  const entries = parts.map((part) => {
    const [name, duration] = part.split(";dur=");
    return [name, Number(duration).toFixed(1)];
  });
  return [...entries, ["round trip", total.toFixed(1)]];
}

function show(image, blob) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
}

async function list() {
  const chosen = byId("model").value;
  const index = await (await ask("v2/repository/index")).json();
  byId("model").replaceChildren();
  for (const { name, version } of index) {
    const path = `v2/models/${encodeURIComponent(name)}/versions/${version}`;
    models.set(path, await (await ask(path)).json());
    byId("model").append(new Option(`${name} (version ${version})`, path));
  }
  if (models.has(chosen)) byId("model").value = chosen;
}

async function predict(file) {
  say("Working...");
  if (models.size === 0) await list();
  const path = byId("model").value;
  const request = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  const segments = models.get(path).parameters.task === "seg";
  const begin = performance.now();
  const response = await ask(`${path}/picture`, request);
  const answer = await response.json();
  const total = performance.now() - begin;
  show(byId("photo"), file);
  byId("overlay").hidden = byId("show-box").hidden = !segments;
  if (segments) {
    show(byId("overlay"), await (await ask(`${path}/picture?answer=overlay`, request)).blob());
    byId("overlay").hidden = !byId("show").checked;
  }
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  rows(byId("classes"), answer.classes.map((item) => [item.label, percent(item.share ?? item.probability), item.color]));
  rows(byId("timing"), timings(response, total));
  byId("result").hidden = false;
  say(`${file.name || "photo"}: ${answer.width} x ${answer.height} pixels`);
}

function take(files) {
  if (files.length) predict(files[0]).catch((error) => say(error.message, true));
}

byId("file").addEventListener("change", (event) => take(event.target.files));
byId("show").addEventListener("change", (event) => { byId("overlay").hidden = !event.target.checked; });
byId("token").addEventListener("change", () => list().then(() => say(""), (error) => say(error.message, true)));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
list().catch((error) => say(error.message, true));
