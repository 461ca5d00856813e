// Reading a bundle over HTTP: manifest, artefacts, files whose hash is checked, NumPy arrays.

const VERSION = 1;
const CACHE = "bundles";
const ATTEMPTS = 4;
// What may follow on each output, by task, as `Postprocess.of` of the Python package says it.
const ANSWERS = {
  seg: {
    logits: { upsample: "bilinear", decide: "argmax", restore: "nearest" },
    "logits-full": { upsample: "none", decide: "argmax", restore: "nearest" },
    classmap: { upsample: "none", decide: "none", restore: "nearest" },
  },
  cls: {
    logits: { upsample: "none", decide: "softmax", restore: "none" },
    probs: { upsample: "none", decide: "none", restore: "none" },
  },
};

/** Something the person in front of the page should read; everything else is a bug. */
export class PageError extends Error {}

/**
 * Open the bundle whose files lie below `base`.
 * @param {string} base Address of the bundle's directory.
 * @returns {Promise<{manifest: object, url: (path: string) => string}>}
 */
export async function openBundle(base) {
  if (!globalThis.crypto?.subtle) {
    throw new PageError("This page needs a secure address: open it over https:// or on http://localhost.");
  }
  const root = rootOf(base);
  const url = (path) => new URL(path.split("/").map(encodeURIComponent).join("/"), root).href;
  const response = await freshOrKept(url("manifest.json"));
  if (!response) throw new PageError(`No answer for ${url("manifest.json")}: ${reasonFor(url("manifest.json"))}.`);
  if (!response.ok) {
    throw new PageError(`There is no bundle at ${root.href} (manifest.json: HTTP ${response.status}).`);
  }
  let manifest;
  try {
    manifest = await response.json();
  } catch {
    throw new PageError(`${url("manifest.json")} is not valid JSON.`);
  }
  if (!Number.isInteger(manifest?.schema_version) || manifest.schema_version < 1) {
    throw new PageError(`${url("manifest.json")} is not the manifest of a bundle: it has no whole schema_version from 1 on.`);
  }
  if (manifest.schema_version > VERSION) {
    throw new PageError(
      `The bundle has schema version ${manifest.schema_version}; this page reads up to ${VERSION}. Update the page.`,
    );
  }
  const problem = problemIn(manifest);
  if (problem) throw new PageError(`${url("manifest.json")} cannot be used: ${problem}.`);
  if (manifest.task === "seg" && manifest.preprocess.resize !== "stretch") {
    throw new PageError("The bundle segments a crop of the picture, which cannot be laid back over the whole.");
  }
  return { manifest, url };
}

/**
 * The artefacts that ONNX Runtime Web can load, the safest first: made for any processor, then more precise.
 * @returns {object[]} Entries of `manifest.artifacts`, each with its `size_bytes`.
 */
export function usableArtifacts(manifest) {
  const sizes = new Map(manifest.files.map((file) => [file.path, file.size_bytes]));
  const order = ["fp32", "fp16", "int8"];
  const usable = manifest.artifacts
    .filter(runsHere)
    .map((entry) => ({ ...entry, size_bytes: sizes.get(entry.path) ?? 0 }));
  // This page upsamples and decides by itself, faster than a graph that ends in a class map.
  const rank = (entry) =>
    16 * Number(entry.requires.length > 0) +
    8 * Number(!entry.runtimes.includes("onnxruntime")) +
    4 * Number(entry.postprocess.output === "classmap") +
    order.indexOf(entry.precision);
  usable.sort((a, b) => rank(a) - rank(b));
  if (usable.length === 0) {
    const held = manifest.artifacts.map((entry) => `${entry.path} (${entry.precision}, ${entry.kind})`).join("; ");
    throw new PageError(`Nothing in the bundle can run in a browser. It holds: ${held || "no model file"}.`);
  }
  return usable;
}

/**
 * A file of the bundle, from the browser's own store or the network, after its SHA-256 was checked.
 * An interrupted download goes on where it stopped.
 * @param {object} bundle As `openBundle` returns it.
 * @param {string} path As the manifest names it.
 * @param {(done: number, total: number) => void} [progress] Bytes so far and in all.
 * @returns {Promise<ArrayBuffer>}
 */
export async function readFile(bundle, path, progress = () => {}) {
  const entry = bundle.manifest.files.find((file) => file.path === path);
  if (!entry) throw new PageError(`The manifest does not list '${path}'.`);
  const key = `${bundle.url(path)}?sha256=${entry.sha256}`;
  const store = await globalThis.caches?.open(CACHE);
  const kept = await store?.match(key);
  const bytes = kept ? await kept.arrayBuffer() : await download(bundle.url(path), entry, progress);
  if ((await sha256(bytes)) !== entry.sha256) {
    await store?.delete(key);
    throw new PageError(`'${path}' is not the file its manifest describes (sha256 differs). Fetch the bundle again.`);
  }
  if (store && !kept) await keep(store, key, new Response(bytes));
  return bytes;
}

/**
 * The array in a .npy file of version 1, C order, little-endian.
 * @param {ArrayBuffer} buffer
 * @returns {{shape: number[], data: Float32Array | Uint8Array | Uint16Array}}
 */
export function parseNpy(buffer) {
  const length = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, 10, length));
  const kind = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").filter((part) => part.trim()).map(Number);
  const type = { "<f4": Float32Array, "|u1": Uint8Array, "<u2": Uint16Array }[kind];
  if (!type || header.includes("'fortran_order': True")) throw new PageError(`Cannot read an array of type ${kind}.`);
  return { shape, data: new type(buffer.slice(10 + length)) };
}

function rootOf(base) {
  try {
    const root = new URL(base.endsWith("/") ? base : `${base}/`, globalThis.location.href);
    if (root.protocol.startsWith("http")) return root;
  } catch {
    // Said below, as of an address that names no place on the web.
  }
  throw new PageError(`'${base}' is not the address of a bundle: a folder of this site, or https:// and a host.`);
}

/** Why nothing came from an address: a browser keeps the reason from the page, so all that it can be. */
function reasonFor(address) {
  const elsewhere = new URL(address).origin !== globalThis.location.origin;
  const refused = ", or it does not let other sites read it (it has to send Access-Control-Allow-Origin)";
  return `it was not loaded before, and there is no network now, or its server does not run${elsewhere ? refused : ""}`;
}

/** What the rest of the page would stumble over in a manifest, in words; empty if there is nothing. */
function problemIn({ model, task, labels, palette, preprocess, artifacts, files, golden }) {
  if (typeof model?.name !== "string") return "it does not name its model";
  if (task !== "seg" && task !== "cls") return "its task is neither seg nor cls";
  if (!isList(labels, isText)) return "it lacks the list of labels";
  if (!isList(palette, Array.isArray)) return "it lacks the palette";
  if (!isList(files, (file) => isText(file?.path) && isText(file.sha256) && file.size_bytes >= 0)) {
    return "it lacks the list of files";
  }
  const { height, width, resize, interpolation, mean, std } = preprocess ?? {};
  const sized = [height, width].every((side) => Number.isInteger(side) && side > 0);
  const crop = resize === "short_side_crop" && preprocess.short_side > 0;
  const filtered = ["bilinear", "bicubic"].includes(interpolation) && (crop || resize === "stretch");
  const scaled = [mean, std].every((values) => isList(values, Number.isFinite) && values.length === 3);
  if (!sized || !filtered || !scaled) return "its preprocess does not say how pictures become the network's input";
  if (!isList(artifacts, isArtifact)) return "it lacks the list of artifacts, or one of them is not whole";
  for (const { path, inputs, outputs, postprocess } of artifacts.filter(runsHere)) {
    const [shape, fed] = [inputs[0].shape, [1, 3, height, width]];
    // -1 is a free axis.
    if (shape.length !== 4 || shape.some((size, axis) => size !== -1 && size !== fed[axis])) {
      return `'${path}' takes an input of ${shape.join("x")}, its preprocess makes ${fed.join("x")}`;
    }
    const answer = outputs.find((output) => output.name === postprocess.tensor);
    if (!answer) return `'${path}' has no output '${postprocess.tensor}'`;
    const contradiction = contradictionIn(postprocess, task, answer.shape, { height, width });
    if (contradiction) return `'${path}' ${contradiction}`;
    const classes = postprocess.decide === "argmax" || task === "cls" ? answer.shape[1] : -1;
    if (classes !== -1 && classes !== labels.length) {
      return `'${path}' knows ${classes} classes, but there are ${labels.length} labels`;
    }
  }
  if (golden && ![golden.picture, golden.input, golden.output].every(isText)) return "its golden pair is not whole";
  return "";
}

/**
 * What of a `postprocess` does not go with its task, its output's shape or the input's size; empty if all does. Keys
 * that are left out have the schema's defaults.
 */
function contradictionIn({ output, stride = 1, upsample = "none", restore = "none", decide }, task, shape, input) {
  const given = { upsample, decide, restore };
  const due = Object.hasOwn(ANSWERS[task], output) ? ANSWERS[task][output] : null;
  if (!due) return `answers with '${output}', which the task ${task} has not`;
  const wrong = Object.keys(due).find((name) => given[name] !== due[name]);
  if (wrong) {
    const wanted = `${wrong} = '${due[wrong]}'`;
    return `answers with ${output} for the task ${task}, which ${wanted} goes with, not '${given[wrong]}'`;
  }
  if (!Number.isInteger(stride) || stride < 1) return `has a stride of ${stride}, which is no whole number from 1 on`;
  if (task === "cls") return "";
  const [rows, columns] = shape.slice(-2);
  const fits = (cells, side) => cells === -1 || cells * stride === side;
  if (fits(rows, input.height) && fits(columns, input.width)) return "";
  const cells = `${rows}x${columns} cells of ${stride} pixels`;
  return `answers with ${cells}, which is not its input of ${input.height}x${input.width}`;
}

function isText(value) {
  return typeof value === "string";
}

function isList(values, isGood) {
  return Array.isArray(values) && values.every((value) => isGood(value));
}

function isArtifact(entry) {
  const isTensor = (tensor) => isText(tensor?.name) && isList(tensor.shape, Number.isInteger);
  return (
    [entry?.path, entry?.kind, entry?.precision, entry?.postprocess?.tensor].every(isText) &&
    [entry.files, entry.runtimes, entry.requires].every((names) => isList(names, isText)) &&
    [entry.inputs, entry.outputs].every((tensors) => isList(tensors, isTensor)) &&
    Array.isArray(entry.measurements)
  );
}

/** Whether ONNX Runtime Web can load an artefact and this page feed it. */
function runsHere({ kind, files, inputs }) {
  return kind === "onnx" && files.length === 0 && inputs.length === 1 && inputs[0].dtype === "float32";
}

async function freshOrKept(address) {
  const store = await globalThis.caches?.open(CACHE);
  try {
    const response = await fetch(address, { cache: "no-cache" });
    if (response.ok && store) await keep(store, address, response.clone());
    return response;
  } catch {
    return store?.match(address);
  }
}

async function keep(store, key, response) {
  try {
    await store.put(key, response);
  } catch (error) {
    // A full disk or a private window: the page works, only not offline.
    if (error.name !== "QuotaExceededError") throw error;
  }
}

async function download(address, entry, progress) {
  const chunks = [];
  let [done, tag, problem] = [0, null, "it is cut short"];
  for (let attempt = 0; attempt < ATTEMPTS && (attempt === 0 || done < entry.size_bytes); attempt += 1) {
    // With If-Range besides, other hosts would be asked for leave first, which they rarely give.
    const headers = done > 0 && tag ? { Range: `bytes=${done}-` } : {};
    try {
      const response = await fetch(address, { headers });
      if (!response.ok) throw new PageError(`'${entry.path}' could not be fetched: HTTP ${response.status}.`);
      const before = tag;
      tag = response.headers.get("ETag");
      if (response.status === 206 && tag !== before) {
        // The rest of another version: from the start again.
        [chunks.length, done, tag] = [0, 0, null];
        await response.body.cancel();
        continue;
      }
      if (response.status !== 206) [chunks.length, done] = [0, 0];
      for (let reader = response.body.getReader(), part = await reader.read(); !part.done; part = await reader.read()) {
        chunks.push(part.value);
        done += part.value.length;
        progress(done, entry.size_bytes);
      }
    } catch (error) {
      if (error instanceof PageError) throw error;
      problem = done > 0 ? error.message : reasonFor(address);
    }
  }
  if (done < entry.size_bytes) throw new PageError(`'${entry.path}' could not be fetched: ${problem}.`);
  return new Blob(chunks).arrayBuffer();
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
