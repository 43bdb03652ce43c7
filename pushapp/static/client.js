// The page's side of Web Push, as an ES module:
//
//   import { subscribe, unsubscribe, current, supported } from "/push/client.js";
//
// All addresses are taken from this module's own, so it works below any prefix.

const address = (name) => new URL(name, import.meta.url);

/** Whether this browser can do Web Push on this page. */
export function supported() {
  return isSecureContext && "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
}

/** The browser's PushSubscription, or null. */
export async function current() {
  if (!supported()) return null;
  const registration = await navigator.serviceWorker.getRegistration("/");
  return (await registration?.pushManager.getSubscription()) ?? null;
}

/**
 * Subscribe this browser for the user who is signed in, and tell the server. Resolves to the server's
 * answer, {ok: true, count}. Rejects with an Error whose message can be shown to the user.
 *
 * Ask for it in answer to a click. Once permission is granted, call it on every load as well: it asks
 * nothing again, and brings back what either side has lost.
 */
export async function subscribe() {
  const obstacle = whatIsMissing();
  if (obstacle) throw new Error(obstacle);
  if ((await Notification.requestPermission()) !== "granted") {
    throw new Error(
      Notification.permission === "denied"
        ? "Notifications are blocked for this site: allow them in the browser's site settings."
        : "Notifications were not allowed.",
    );
  }
  await navigator.serviceWorker.register(address("service-worker.js"), { scope: "/" });
  const registration = await navigator.serviceWorker.ready;
  const { publicKey } = await send("GET", "vapid-public-key");

  const before = await registration.pushManager.getSubscription();
  const kept = before && madeWith(before, publicKey);
  if (before && !kept) await before.unsubscribe();
  const subscription = kept
    ? before
    : await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: publicKey });
  const answer = await send("POST", "subscribe", subscription).catch(async (error) => {
    // A no is a no. But a server that is merely away must not cost the user what works already.
    if (!kept || error.refused) await subscription.unsubscribe();
    throw error;
  });
  return before && !kept ? send("POST", "unsubscribe", { endpoint: before.endpoint }) : answer;
}

/** Unsubscribe this browser and tell the server. Resolves to {ok: true, count}, or null if there was nothing. */
export async function unsubscribe() {
  const subscription = await current();
  if (!subscription) return null;
  const { endpoint } = subscription;
  await subscription.unsubscribe(); // first: from here on nothing is shown, whatever the server says
  return send("POST", "unsubscribe", { endpoint });
}

function whatIsMissing() {
  if (!isSecureContext) return "Notifications need a secure page: open this site over https.";
  if (supported()) return null;
  const apple = /iPad|iPhone|iPod/.test(navigator.userAgent)
    || (navigator.platform === "MacIntel" && navigator.maxTouchPoints > 1);
  if (apple && !navigator.standalone) {
    return "On iPhone and iPad, add this site to the home screen first (Share, then Add to Home Screen), and open it there.";
  }
  return "This browser cannot show push notifications.";
}

function madeWith(subscription, publicKey) {
  const key = subscription.options?.applicationServerKey;
  if (!key) return true; // the browser does not say
  const text = btoa(String.fromCharCode(...new Uint8Array(key)));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") === publicKey;
}

async function send(method, name, body) {
  let response;
  try {
    response = await fetch(address(name), {
      method,
      credentials: "same-origin",
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("The server could not be reached.");
  }
  if (response.ok) return response.json();
  const error = new Error(await reason(response));
  error.status = response.status;
  error.refused = response.status < 500 && response.status !== 408 && response.status !== 429;
  throw error;
}

async function reason(response) {
  if (response.status === 401) return "Sign in first.";
  const { message, status } = await response.json().catch(() => ({}));
  return `The server refused (${response.status}): ${message ?? status ?? response.statusText}`;
}
