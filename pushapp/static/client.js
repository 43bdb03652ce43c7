// Web Push for the site's pages, as an ES module:
//
//   import { subscribe, unsubscribe, current, supported } from "/push/client.js";
//
// URLs are relative to this module, so it works below any prefix.

const url = (name) => new URL(name, import.meta.url);

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
 * Subscribe this browser for the signed-in user, and tell the server. Resolves to the server's response,
 * {ok: true, count}. Rejects with an Error whose message is for the user.
 *
 * Call it in answer to a click. Once permission is granted, call it on every load as well: it does not
 * prompt again. Idempotent: it synchronizes browser and server.
 */
export async function subscribe() {
  const reason = unsupportedReason();
  if (reason) throw new Error(reason);
  if ((await Notification.requestPermission()) !== "granted") {
    throw new Error(
      Notification.permission === "denied"
        ? "Notifications are blocked for this site: allow them in the browser's site settings."
        : "Notifications were not allowed.",
    );
  }
  await navigator.serviceWorker.register(url("service-worker.js"), { scope: "/" });
  const registration = await navigator.serviceWorker.ready;
  const { publicKey } = await send("GET", "vapid-public-key");

  const existing = await registration.pushManager.getSubscription();
  const reusable = existing && usesKey(existing, publicKey);
  if (existing && !reusable) await existing.unsubscribe();
  const subscription = reusable
    ? existing
    : await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: publicKey });
  const response = await send("POST", "subscribe", subscription).catch(async (error) => {
    // Roll back on rejection, but preserve a working subscription during an outage.
    if (!reusable || error.rejected) await subscription.unsubscribe();
    throw error;
  });
  return existing && !reusable ? send("POST", "unsubscribe", { endpoint: existing.endpoint }) : response;
}

/** Unsubscribe this browser and tell the server. Resolves to {ok: true, count}, or null without a subscription. */
export async function unsubscribe() {
  const subscription = await current();
  if (!subscription) return null;
  const { endpoint } = subscription;
  await subscription.unsubscribe(); // first: nothing is shown any more, whatever the server responds
  return send("POST", "unsubscribe", { endpoint });
}

function unsupportedReason() {
  if (!isSecureContext) return "Notifications need a secure page: open this site over https.";
  if (supported()) return null;
  const apple = /iPad|iPhone|iPod/.test(navigator.userAgent)
    || (navigator.platform === "MacIntel" && navigator.maxTouchPoints > 1);
  if (apple && !navigator.standalone) {
    return "On iPhone and iPad, add this site to the home screen first (Share, then Add to Home Screen), and open it there.";
  }
  return "This browser cannot show push notifications.";
}

function usesKey(subscription, publicKey) {
  const key = subscription.options?.applicationServerKey;
  if (!key) return true; // not exposed by this browser
  const text = btoa(String.fromCharCode(...new Uint8Array(key)));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") === publicKey;
}

async function send(method, name, body) {
  let response;
  try {
    response = await fetch(url(name), {
      method,
      credentials: "same-origin",
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("The server could not be reached.");
  }
  if (response.ok) return response.json();
  const error = new Error(await errorMessage(response));
  error.status = response.status;
  error.rejected = response.status < 500 && response.status !== 408 && response.status !== 429;
  throw error;
}

async function errorMessage(response) {
  if (response.status === 401) return "Sign in first.";
  const { message, status } = await response.json().catch(() => ({}));
  return `Request failed (${response.status}): ${message ?? status ?? response.statusText}`;
}
