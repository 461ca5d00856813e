// The page: what is shown, and what the buttons do. The bundle is named by ?bundle=ADDRESS, by default bundle/.

import { PageError, openBundle, readFile, usableArtifacts } from "./bundle.js";
import { Camera } from "./camera.js";
import { checkGolden } from "./golden.js";
import { Legend, backgroundOf, sharesOf, tint } from "./overlay.js";
import { decodePicture } from "./picture.js";
import { Segmenter } from "./segmenter.js";

const LONGEST_SHOWN = 1600;
const FRAMES_FOR_FPS = 20;
const MOST_THREADS = 4;

const WORDS = {
  seg: {
    title: "Segment",
    task: "segmentation",
    doing: "Segmenting",
    found: "Found in the picture",
    picture: "Picture with overlay",
  },
  cls: {
    title: "Classify",
    task: "classification",
    doing: "Classifying",
    found: "Most probable",
    picture: "Picture, most probable",
  },
};

const part = (id) => document.getElementById(id);
const view = part("view");
const frame = document.createElement("canvas");
const shade = document.createElement("canvas");
const segmenter = new Segmenter();

let bundle;
let artifacts = [];
let entry;
let loaded = null;
let words;
let legend;
let camera = null;
let shown = null;
let busy = Promise.resolve();
let latest = new AbortController();

/** Shows what goes on; the `details` only a screen reader tells, as the page shows them elsewhere. */
function say(text, details = "") {
  const more = document.createElement("span");
  [more.className, more.textContent] = ["visually-hidden", details];
  part("status").replaceChildren(text, ...(details ? [" ", more] : []));
}

function complain(error) {
  const known = error instanceof PageError;
  part("problem").textContent = known ? error.message : `Something went wrong in this page: ${error.message}`;
  part("problem").hidden = false;
  if (!known) console.error(error);
}

/** Runs one thing at a time and shows what went wrong. The action's signal tells that something else is asked for. */
function attempt(action) {
  latest.abort();
  latest = new AbortController();
  const { signal } = latest;
  busy = busy.then(async () => {
    part("problem").hidden = true;
    try {
      await action(signal);
    } catch (error) {
      say("");
      complain(error);
    }
  });
  return busy;
}

/** Without a model that runs only another one can be chosen. */
function enable(on) {
  for (const id of ["artifact", "backend"]) part(id).disabled = !on;
  for (const id of ["photo", "camera", "sample"]) part(id).disabled = !(on && loaded);
  part("sample").disabled ||= !bundle?.manifest.golden;
  part("check").disabled = part("sample").disabled;
}

async function start() {
  keepForOffline();
  bundle = await openBundle(new URLSearchParams(location.search).get("bundle") ?? "bundle/");
  const { manifest } = bundle;
  words = WORDS[manifest.task];
  document.title = `${words.title} on this device`;
  part("title").textContent = document.title;
  part("model-line").textContent =
    `${manifest.model.name}, ${words.task} into ${manifest.labels.length} classes. Pictures never leave this device.` +
    (manifest.model.random_weights ? " Random weights: the answers mean nothing." : "");
  // Only a class map has colors.
  const colors = manifest.task === "seg" ? manifest.palette : [];
  legend = new Legend(part("legend"), part("legend-empty"), manifest.labels, colors);
  part("legend-heading").textContent = words.found;
  part("overlay").hidden = manifest.task !== "seg";
  artifacts = usableArtifacts(manifest);
  part("artifact").replaceChildren(
    ...artifacts.map((found, index) => {
      const needs = found.requires.length ? `, for ${found.requires.join(", ")}` : "";
      return new Option(`${found.precision.toUpperCase()}, ${megabytes(found.size_bytes)}${needs} (${found.path})`, index);
    }),
  );
  if (await hasGpu()) part("backend").add(new Option("GPU (WebGPU)", "webgpu"));
  await loadModel();
  if (manifest.golden) await showFile(new Blob([await readFile(bundle, manifest.golden.picture)]));
}

/** Loads what is chosen; where that fails, the page goes back to what ran before. */
async function loadModel() {
  enable(false);
  try {
    await load({ artifact: part("artifact").value, backend: part("backend").value });
  } catch (error) {
    if (loaded) [part("artifact").value, part("backend").value] = [loaded.artifact, loaded.backend];
    if (loaded && !loaded.running) await load(loaded).catch(() => { loaded = null; });
    throw error;
  } finally {
    part("progress").hidden = true;
    enable(true);
  }
}

async function load({ artifact, backend }) {
  const chosen = artifacts[Number(artifact)];
  part("progress").hidden = false;
  say(`Loading ${chosen.path} (${megabytes(chosen.size_bytes)}) …`);
  const model = await readFile(bundle, chosen.path, (done, total) => {
    part("progress").value = done / total;
  });
  part("progress").hidden = true;
  const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  const { preprocess } = bundle.manifest;
  // The worker gives up the old model for the new one.
  if (loaded) loaded.running = false;
  const { version } = await segmenter.load({ model, entry: chosen, preprocess, backend, threads });
  entry = chosen;
  clearVerdict();
  loaded = { artifact, backend, running: true };
  const { width, height } = preprocess;
  facts({
    "ONNX Runtime Web": version,
    Threads: backend === "wasm" ? threads : "on the GPU",
    Input: `${width} x ${height}`,
    License: bundle.manifest.license || "not stated",
    ...accuracy(),
  });
  say("Ready.");
}

function accuracy() {
  const metric = entry.measurements.map((found) => found.metric).find(Boolean);
  return metric ? { [metric.name]: `${metric.value.toFixed(1)} % on ${metric.images} pictures` } : {};
}

function facts(pairs) {
  const list = Object.entries(pairs).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, text.textContent] = [name, value];
    return [term, text];
  });
  part("facts").replaceChildren(...list);
}

async function showFile(blob) {
  stopCamera();
  say(`${words.doing} …`);
  const bitmap = await decodePicture(blob);
  const scale = Math.min(1, LONGEST_SHOWN / Math.max(bitmap.width, bitmap.height));
  frame.width = Math.max(1, Math.round(bitmap.width * scale));
  frame.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = frame.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, frame.width, frame.height);
  context.drawImage(bitmap, 0, 0, frame.width, frame.height);
  const answer = await segmenter.predict(bitmap, { width: frame.width, height: frame.height });
  const found = show(answer);
  say(`Answered in ${milliseconds(answer.parts)}.`, `${words.found}: ${found}.`);
}

/** Shows the frame with the answer to it, which is returned in words. */
function show(answer) {
  const { labels, palette } = bundle.manifest;
  shown = answer;
  let found = answer.top;
  if (answer.classes) {
    [shade.width, shade.height] = [answer.size.width, answer.size.height];
    shade.getContext("2d").putImageData(tint(answer.classes, answer.size, palette, backgroundOf(labels)), 0, 0);
    found = sharesOf(answer.classes, labels.length);
  }
  paint();
  const told = legend.show(found) || "nothing";
  view.setAttribute("aria-label", `${words.picture}: ${told}`);
  part("stage").dataset.state = camera ? "camera" : "picture";
  return told;
}

function paint() {
  if (!shown) return;
  [view.width, view.height] = [frame.width, frame.height];
  const context = view.getContext("2d");
  context.drawImage(frame, 0, 0);
  if (!shown.classes) return;
  context.globalAlpha = Number(part("opacity").value) / 100;
  context.drawImage(shade, 0, 0);
}

function pressCamera(on) {
  part("camera").textContent = on ? "Stop camera" : "Start camera";
  part("camera").setAttribute("aria-pressed", String(on));
}

async function startCamera(signal) {
  const opened = new Camera();
  pressCamera(true);
  say("Waiting for the camera …");
  const runs = await opened.start(signal).catch((error) => {
    opened.stop();
    pressCamera(false);
    throw error;
  });
  camera = opened;
  if (!runs) {
    stopCamera();
    return;
  }
  opened.onEnd(() => stopCamera());
  part("fps").hidden = false;
  say("Camera is running.");
  follow(opened).catch((error) => {
    stopCamera();
    complain(error);
  });
}

function stopCamera() {
  if (!camera) return;
  camera.stop();
  camera = null;
  pressCamera(false);
  part("fps").hidden = true;
  say("Camera stopped.");
}

async function follow(source) {
  const ends = [];
  while (camera === source) {
    source.draw(frame);
    const answer = await segmenter.predict(await createImageBitmap(frame));
    if (camera !== source) return;
    show(answer);
    ends.push(performance.now());
    if (ends.length > FRAMES_FOR_FPS) ends.shift();
    const rate = (1000 * (ends.length - 1)) / (ends.at(-1) - ends[0]);
    if (ends.length > 1) part("fps").textContent = `${rate.toFixed(1)} FPS`;
    // A hidden page gets no animation frames, so the camera pauses with it.
    await new Promise((resolve) => { requestAnimationFrame(resolve); });
  }
}

async function check() {
  clearVerdict("Checking …");
  const found = await checkGolden(bundle, segmenter, entry).catch((error) => {
    clearVerdict();
    throw error;
  });
  part("verdict").textContent =
    `${found.passed ? "Passed" : "Failed"}: input ${found.inputSteps ? `differs by ${found.inputSteps} of 255` : "equal"}, ` +
    `${found.agreement.toFixed(3)} % of the decisions equal` +
    (Number.isNaN(found.overRange) ? "." : `, largest difference ${found.overRange.toExponential(1)} of the range.`);
  part("verdict").dataset.passed = found.passed;
}

function clearVerdict(text = "") {
  part("verdict").textContent = text;
  delete part("verdict").dataset.passed;
}

async function hasGpu() {
  return Boolean(await navigator.gpu?.requestAdapter());
}

function keepForOffline() {
  // Without it the page works, only not offline.
  navigator.serviceWorker?.register("sw.js", { type: "module" }).catch((error) => console.warn(error.message));
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function milliseconds({ preprocess, network, postprocess }) {
  const all = preprocess + network + postprocess;
  return `${all.toFixed(0)} ms (network ${network.toFixed(0)} ms)`;
}

part("photo").addEventListener("click", () => part("file").click());
part("file").addEventListener("change", () => {
  const [file] = part("file").files;
  if (file) attempt(() => showFile(file));
  part("file").value = "";
});
part("sample").addEventListener("click", () =>
  attempt(async () => showFile(new Blob([await readFile(bundle, bundle.manifest.golden.picture)]))),
);
part("camera").addEventListener("click", () =>
  attempt(part("camera").getAttribute("aria-pressed") === "true" ? stopCamera : startCamera),
);
part("check").addEventListener("click", () => attempt(check));
part("opacity").addEventListener("input", paint);
for (const id of ["artifact", "backend"]) {
  part(id).addEventListener("change", () =>
    attempt(async () => {
      stopCamera();
      await loadModel();
    }),
  );
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    part("stage").classList.toggle("dropping", kind === "dragover");
  });
}
addEventListener("drop", ({ dataTransfer }) => {
  const [file] = dataTransfer.files;
  if (file && !part("photo").disabled) attempt(() => showFile(file));
});

attempt(start);
