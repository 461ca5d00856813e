// The bundle's golden pair: does this page compute what the model's makers computed?

import { PageError, parseNpy, readFile } from "./bundle.js";
import { decodePicture } from "./picture.js";

/**
 * Judge picture -> input -> output -> class map by the manifest's tolerance for the artefact's precision.
 * @returns {Promise<{passed: boolean, inputSteps: number, overRange: number, agreement: number}>}
 *   `inputSteps`: largest difference of the inputs in steps of the 8-bit picture; `overRange`: of the outputs, over
 *   the golden output's range, NaN without values; `agreement`: percent of equal decisions.
 */
export async function checkGolden(bundle, segmenter, entry) {
  const { golden, preprocess, task } = bundle.manifest;
  const limits = golden?.tolerance?.[entry.precision];
  if (!limits) throw new PageError(`The bundle has no golden pair to judge ${entry.precision} by.`);
  const array = async (path) => parseNpy(await readFile(bundle, path)).data;
  const [input, output] = [await array(golden.input), await array(golden.output)];
  const bitmap = await decodePicture(new Blob([await readFile(bundle, golden.picture)]));
  const prepared = (await segmenter.prepare(bitmap)).tensor;
  const answer = await segmenter.run(input);
  // A graph that ends in a class map has no values to compare.
  const valued = entry.postprocess.output !== "classmap";
  const alike = valued && answer.output.length === output.length;
  const overRange = alike ? farthest(answer.output, output) / range(output) : NaN;
  const agreement =
    task === "seg"
      ? percentEqual(answer.classes, await array(golden.answer))
      : percentEqual([answer.top[0].index], [output.indexOf(Math.max(...output))]);
  const inputSteps = Math.round(255 * Math.max(...preprocess.std) * farthest(prepared, input));
  const near = !valued || limits.max_abs_over_range === null || overRange <= limits.max_abs_over_range;
  return { passed: inputSteps <= 1 && near && agreement >= limits.argmax_agreement, inputSteps, overRange, agreement };
}

function farthest(a, b) {
  return a.reduce((most, value, at) => Math.max(most, Math.abs(value - b[at])), 0);
}

function range(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) [least, most] = [Math.min(least, value), Math.max(most, value)];
  return most - least || 1;
}

function percentEqual(a, b) {
  if (a.length !== b.length) return 0;
  return (100 * a.reduce((sum, value, at) => sum + Number(value === b[at]), 0)) / a.length;
}
