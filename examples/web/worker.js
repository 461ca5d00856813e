// Runs the network away from the page's own thread, so that the page always answers.

import { bestClasses, classesOf, restore } from "./answer.js";
import { PageError } from "./bundle.js";
import { pixelsOf, toInput } from "./picture.js";

const VENDOR = new URL("./vendor/onnxruntime-web-1.30.0/", import.meta.url).href;
const BACKENDS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

let ort;
let session;
let artifact;
let spec;

const actions = {
  async load({ model, entry, preprocess, backend, threads }) {
    await session?.release();
    session = undefined;
    try {
      ort = await import(VENDOR + BACKENDS[backend]);
    } catch {
      const name = BACKENDS[backend];
      const answered = await fetch(VENDOR + name, { method: "HEAD" }).catch(() => null);
      throw new PageError(
        answered
          ? "ONNX Runtime Web is missing here: run examples/web/setup, then load the page again."
          : `'${name}' was not loaded before, and there is no network now, or the server does not run.`,
      );
    }
    ort.env.wasm.wasmPaths = VENDOR;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    session = await ort.InferenceSession.create(new Uint8Array(model), {
      executionProviders: [backend],
      logSeverityLevel: 3,
    });
    [artifact, spec] = [entry, preprocess];
    expect(entry.inputs[0].name, session.inputNames);
    expect(entry.postprocess.tensor, session.outputNames);
    return { version: ort.env.versions?.web ?? "" };
  },

  /** `size`: of the class map in the answer; by default the picture's. */
  async predict({ bitmap, size }) {
    const begin = performance.now();
    const image = pixelsOf(bitmap);
    const picture = { width: image.width, height: image.height };
    bitmap.close();
    const tensor = toInput(image, spec);
    const ready = performance.now();
    const output = await run(tensor);
    const answered = performance.now();
    const answer = { ...judge(output, size ?? picture), picture };
    const parts = { preprocess: ready - begin, network: answered - ready, postprocess: performance.now() - answered };
    return { ...answer, parts };
  },

  /** The network's input for a picture. */
  async prepare({ bitmap }) {
    const tensor = toInput(pixelsOf(bitmap), spec);
    bitmap.close();
    return { tensor };
  },

  /** What the network answers to an input tensor, and the class map at the input's size. */
  async run({ tensor }) {
    const output = await run(tensor);
    return { output: Float32Array.from(output.data, Number), ...judge(output, spec) };
  },
};

function expect(name, names) {
  if (names.includes(name)) return;
  throw new PageError(`The manifest names '${name}' in '${artifact.path}', which has ${names.join(", ")} instead.`);
}

async function run(tensor) {
  const [input] = artifact.inputs;
  const feed = { [input.name]: new ort.Tensor("float32", tensor, [1, 3, spec.height, spec.width]) };
  return (await session.run(feed))[artifact.postprocess.tensor];
}

function judge(output, size) {
  const post = artifact.postprocess;
  if (post.restore === "none") return { top: bestClasses(output, post) };
  const classes = classesOf(output, post, spec);
  return { classes: restore(classes, spec, size), size: { width: size.width, height: size.height } };
}

// One at a time: a session runs one call.
let last = Promise.resolve();
addEventListener("message", ({ data: { id, action, message } }) => {
  last = last.then(async () => {
    try {
      const result = await actions[action](message);
      const owned = Object.values(result).filter(ArrayBuffer.isView).map((array) => array.buffer);
      postMessage({ id, result }, owned);
    } catch (error) {
      postMessage({ id, problem: error.message, expected: error instanceof PageError });
    }
  });
});
