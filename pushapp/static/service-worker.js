// Shows push messages, opens their targets, and renews the subscription.

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// Always show a notification: a push without one costs the subscription in Safari, and quota in Firefox.
self.addEventListener("push", (event) => {
  const { title, ...options } = parse(event.data);
  event.waitUntil(self.registration.showNotification(title, options));
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const { navigate, actions = {} } = event.notification.data ?? {};
  const target = actions[event.action] ?? navigate;
  event.waitUntil(open(new URL(target ?? "/", self.location.origin)));
});

self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event)));

// Declarative Web Push ({"web_push": 8030, "notification": {…}}), any other JSON, plain text, or nothing.
function parse(data) {
  const text = data?.text() ?? "";
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return { title: text || location.hostname };
  }
  const notification = message?.notification ?? message;
  if (typeof notification !== "object" || notification === null) return { title: text };
  const { title, navigate, actions, data: siteData, ...options } = notification;
  return {
    ...options,
    title: String(title ?? location.hostname),
    actions: Array.isArray(actions) ? actions.map(({ action, title, icon }) => ({ action, title, icon })) : [],
    data: {
      siteData,
      navigate,
      actions: Object.fromEntries((Array.isArray(actions) ? actions : []).map((action) => [action.action, action.navigate])),
    },
  };
}

async function open(target) {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const existing = windows.find((client) => client.url === target.href);
  return existing ? existing.focus() : self.clients.openWindow(target);
}

async function renew({ oldSubscription, newSubscription }) {
  const subscription = newSubscription ?? (await resubscribe(oldSubscription));
  const response = await post("subscribe", subscription);
  if (response.ok && oldSubscription && oldSubscription.endpoint !== subscription.endpoint) {
    await post("unsubscribe", { endpoint: oldSubscription.endpoint });
  }
  if (response.status === 401 || response.status === 403) await subscription.unsubscribe();
}

async function resubscribe(oldSubscription) {
  let applicationServerKey = oldSubscription?.options?.applicationServerKey;
  if (!applicationServerKey) {
    ({ publicKey: applicationServerKey } = await (await fetch(new URL("vapid-public-key", location))).json());
  }
  return self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
}

function post(name, body) {
  return fetch(new URL(name, location), {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}
