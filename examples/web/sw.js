// Keeps the page itself for use without a network; the bundle's files are kept by bundle.js.

const CACHE = "page-1";
const VENDOR = "vendor/onnxruntime-web-1.30.0/";
const FILES = [
  "./", "index.html", "style.css", "icon.svg", "app.js", "answer.js", "bundle.js", "golden.js", "overlay.js",
  "picture.js", "orientation.js", "segmenter.js", "worker.js", "camera.js",
  `${VENDOR}ort.wasm.min.mjs`, `${VENDOR}ort-wasm-simd-threaded.mjs`, `${VENDOR}ort-wasm-simd-threaded.wasm`,
];

addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((store) => store.addAll(FILES)).then(() => self.skipWaiting()));
});

addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

addEventListener("fetch", (event) => {
  const { request } = event;
  const path = request.url.slice(self.registration.scope.length);
  const [name] = path.split("?");
  const ours = request.url.startsWith(self.registration.scope) && (name === "" || FILES.includes(name));
  const pinned = path.startsWith(VENDOR);
  if (request.method !== "GET" || request.headers.has("Range") || !(ours || pinned)) return;
  event.respondWith(pinned ? keptFirst(request) : freshFirst(request));
});

async function keptFirst(request) {
  const store = await caches.open(CACHE);
  const kept = await store.match(request.url);
  if (kept) return kept;
  const response = await fetch(request);
  if (response.ok) await store.put(request.url, response.clone());
  return response;
}

async function freshFirst(request) {
  const store = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await store.put(request.url.split("?")[0], response.clone());
    return response;
  } catch (error) {
    const kept = await store.match(request.url, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
