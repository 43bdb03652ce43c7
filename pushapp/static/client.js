// Web Push in the site's pages (see client.d.ts), below any prefix: URLs are relative to this module.

const BASE = new URL(".", import.meta.url);
const WORKER = new URL("service-worker.js", BASE).href;
const PUSH_TIMEOUT = 30_000; // milliseconds
const TIMEOUT = 15_000; // of requests, and of a worker's start
const LOCAL_TIMEOUT = 5_000; // of storage, and of a running worker
const KEY = ""; // the server writes its own

export class PushError extends Error {
  name = "PushError";

  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export function supported() {
  return "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
}

export async function current({ registration: given } = {}) {
  if (!supported()) return null;
  const registration = await startWorker(given ?? navigator.serviceWorker.getRegistration(BASE));
  const isOurs = registration && (given || registration.scope === BASE.href); // else it has a wider scope
  return isOurs ? pushService(registration.pushManager.getSubscription()) : null;
}

export async function subscribe(options = {}) {
  if (!supported()) throw await unsupported();
  const permission = await Notification.requestPermission(); // first: it needs the click
  if (permission === "denied") throw denied();
  if (permission !== "granted") throw new PushError("dismissed", "Try again, and allow notifications when asked.");
  return exclusively(async () => synchronize(options, userOf(options, await read("subscription"))));
}

export async function resume(options = {}) {
  if (!supported() || Notification.permission !== "granted") return null;
  return exclusively(async () => {
    const record = await read("subscription");
    const user = userOf(options, record);
    let held = await current(options);
    if (user === null || (user ?? record?.user) !== (record?.user ?? user)) {
      if (held) await end(held);
      if (held) await tell(held, options);
      held = await write("subscription");
    }
    const isWanted = held || (user !== null && (await read(wish(user))));
    return isWanted ? synchronize(options, user) : null;
  });
}

export async function unsubscribe(options = {}) {
  if (!supported()) return null;
  return exclusively(async () => {
    const held = await current(options);
    const record = await read("subscription");
    if (held) await end(held); // first: nothing is shown any more, whatever the server responds
    for (const name of [wish(record?.user), wish(options.user), "subscription"]) await write(name);
    return held && tell(held, options);
  });
}

const end = (subscription) => pushService(subscription.unsubscribe());
const undo = (subscription) => end(subscription).catch(() => {});
const tell = ({ endpoint }, options) =>
  request("unsubscribe", options, { endpoint }).catch(() => ({ ok: true, count: null }));

// Make browser and server agree on a subscription with the server's key.
async function synchronize(options, user, isRetry) {
  const publicKey = await serverKey(options);
  const { pushManager } = await workerRegistration(options);
  const held = await pushService(pushManager.getSubscription());
  const isUsable = held && !isImpossible(held) && keyOf(held) === publicKey;
  if (held && !isUsable) await end(held); // a browser has one, with one key
  const subscription = isUsable ? held : await create(pushManager, publicKey);
  const json = { ...subscription.toJSON(), applicationServerKey: publicKey };
  try {
    // The row of a subscription that the browser has lost or replaced gets the new one.
    const { endpoint, keys } = (await read(wish(user))) ?? held?.toJSON() ?? json;
    const isRenewed = endpoint !== json.endpoint
      && (await request("renew", options, { endpoint, auth: keys.auth, subscription: json }).catch(() => false));
    if (isRenewed) await remember(json, user);
    const label = options.label ?? (isUsable || isRenewed ? undefined : defaultLabel()); // the user may have set it
    const { ok, count } = await request("subscribe", options, { ...json, label });
    await remember(json, user);
    return { ok, count };
  } catch (error) {
    const isOutdated = error.status === 409 && !isRetry;
    if (!isUsable || (!isOutdated && [409, 422].includes(error.status))) await undo(subscription);
    if (!isOutdated) throw error;
    await write("key");
    return synchronize(options, user, true);
  }
}

async function create(pushManager, applicationServerKey) {
  for (let tries = 0; tries < 4; tries++) {
    const options = { userVisibleOnly: true, applicationServerKey };
    const subscription = await pushService(pushManager.subscribe(options), undo);
    if (!isImpossible(subscription)) return subscription;
    await undo(subscription);
  }
  throw new PushError("push-service", "Update this browser, or use another: its push service does not work.");
}

// Edge on Android hands out endpoints at permanently-removed.invalid.
const isImpossible = ({ endpoint }) => new URL(endpoint).hostname.endsWith(".invalid");

function keyOf({ options }) {
  const text = btoa(String.fromCharCode(...new Uint8Array(options.applicationServerKey)));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

async function serverKey(options) {
  if ((await read("key")) === KEY) return KEY;
  const { publicKey } = await request("vapid-public-key", options);
  await write("key", publicKey);
  return publicKey;
}

async function workerRegistration({ registration: given }) {
  const registration = await startWorker(given ?? register());
  await startWorker(activation(registration));
  if (!given || (await hasListeners(registration.active))) return registration;
  const file = registration.active.scriptURL;
  throw new PushError("worker", `The site's operator has to add importScripts("${WORKER}") to ${file}.`);
}

let policy; // for require-trusted-types-for 'script'

async function register() {
  policy ??= window.trustedTypes?.createPolicy("pushapp", { createScriptURL: (url) => url });
  return navigator.serviceWorker.register(policy?.createScriptURL(WORKER) ?? WORKER, { scope: BASE });
}

const startWorker = (work) => within(TIMEOUT, work,
  new PushError("worker", `The browser could not load ${WORKER}: allow this site to store data, and reload the page.`));

const activation = async ({ active, waiting, installing }) => active ?? new Promise((resolve) => {
  const worker = waiting ?? installing;
  worker.addEventListener("statechange", () => worker.state === "activated" && resolve());
});

function hasListeners(worker) {
  const { port1, port2 } = new MessageChannel();
  const response = new Promise((resolve) => (port1.onmessage = resolve));
  worker.postMessage({ pushapp: "ping" }, [port2]);
  return within(LOCAL_TIMEOUT, response, {}).catch(() => false);
}

// After a click the worker asks what each window shows: a single-page application may have moved on.
navigator.serviceWorker?.addEventListener("message", ({ data, ports }) => {
  if (data?.pushapp === "location") ports[0]?.postMessage(location.href);
});

async function request(name, options, body) {
  const unreachable = new PushError("unreachable",
    "The server is unavailable or did not respond in time: check your connection, and try again later.");
  const content = body && { method: "POST", body: JSON.stringify(body) };
  const headers = { ...options.headers, ...(body && { "Content-Type": "application/json" }) };
  const signal = AbortSignal.timeout(TIMEOUT); // a redirect leads to a sign-in page, for example
  const init = { ...content, headers, signal, credentials: "include", redirect: "error" };
  const response = await within(TIMEOUT, fetch(new URL(name, BASE), init), unreachable);
  const { status } = response;
  const json = await response.json().catch(() => null);
  if (status === 200 && (json?.ok || json?.publicKey)) return json;
  if (status === 401) throw new PushError("signed-out", "Sign in first, then turn notifications on.");
  if (status >= 500 || json?.code !== status) throw unreachable; // or a proxy has responded
  const reason = json.errors ? JSON.stringify(json.errors).replace(/[[\]{}"\\]+/g, " ") : json.message;
  throw Object.assign(new PushError("refused", `The server rejected this; tell the site: ${reason}`), { status });
}

// Reject with `error` after a time-out, and instead of the browser's own errors.
function within(milliseconds, work, error) {
  let timer;
  const timeout = new Promise((_, reject) => (timer = setTimeout(reject, milliseconds)));
  return Promise.race([work, timeout])
    .catch((cause) => {
      throw Object.assign(error, { cause });
    })
    .finally(() => clearTimeout(timer));
}

// `late` gets what comes after the time-out.
function pushService(work, late) {
  const error = new PushError("push-service", "The push service failed or did not respond in time:"
    + " check your connection and the browser's settings for push messages, and try again.");
  return within(PUSH_TIMEOUT, work, error).catch(({ cause }) => {
    work.then(late, () => {});
    throw cause?.name === "NotAllowedError" ? denied() : error;
  });
}

// One call at a time in all tabs: unsubscribe() must not meet a resume().
const exclusively = (work) => navigator.locks.request(`pushapp ${BASE.pathname}`, work);

const denied = () =>
  new PushError("denied", "Notifications are blocked for this site: allow them in the browser's site settings.");

async function unsupported() {
  if (!isSecureContext) return new PushError("insecure", "Notifications need https: open this site over https.");
  const { userAgent, platform, maxTouchPoints, standalone } = navigator;
  const isApple = /iPad|iPhone|iPod/.test(userAgent) || (platform === "MacIntel" && maxTouchPoints > 1);
  if (!isApple) return new PushError("unsupported", "This browser has no push notifications: use another one.");
  const link = document.querySelector('link[rel~="manifest"]');
  const loading = link && fetch(link.href).then((response) => response.json());
  const manifest = await within(TIMEOUT, loading, {}).catch(() => null);
  const missing = /^(standalone|fullscreen)$/.test(manifest?.display) ? ""
    : ' Before iOS 26 this site also needs a manifest with "display": "standalone".';
  if (standalone) return new PushError("unsupported", `Notifications need iOS 16.4 or later.${missing}`);
  const open = /Safari\//.test(userAgent) ? "" : "open this page in Safari, ";
  return new PushError("home-screen",
    `On iPhone and iPad, ${open}add this site to the home screen (Share, Add to Home Screen), and open it there.${missing}`);
}

function defaultLabel() {
  const find = (names) => names.split(" ").map((name) => name.split(":"))
    .find(([part]) => navigator.userAgent.includes(part))?.pop();
  const browser = find("Edg:Edge OPR:Opera Samsung FxiOS:Firefox Firefox CriOS:Chrome Chrome Safari") ?? "Browser";
  return [browser, find("iPhone iPad Android Windows CrOS:ChromeOS Mac:macOS Linux")].filter(Boolean).join(" on ");
}

// Storage that the worker reads too; two sites of an origin have two prefixes.
const userOf = ({ user }, record) => (user === undefined ? record?.user : user);
const wish = (user) => `wish ${user ?? ""}`;
const read = (name) => access((store) => store.get(name));
const write = (name, value) => access((store) => void store.put(value, name));

async function remember({ endpoint, keys }, user) {
  for (const name of [wish(user), "subscription"]) await write(name, { base: BASE.href, endpoint, keys, user });
}

// Without storage all works, except that no wish is known.
function access(use) {
  const work = new Promise((resolve, reject) => {
    const opening = indexedDB.open(`pushapp ${BASE.pathname}`);
    opening.onupgradeneeded = () => opening.result.createObjectStore("values");
    opening.onerror = reject;
    opening.onsuccess = () => {
      const transaction = opening.result.transaction("values", "readwrite");
      const query = use(transaction.objectStore("values"));
      transaction.oncomplete = () => resolve(query?.result);
      opening.result.close(); // after the transaction
    };
  });
  return within(LOCAL_TIMEOUT, work, {}).catch(() => undefined);
}
