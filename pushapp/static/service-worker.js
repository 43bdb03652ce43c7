// Shows what the push service brings, opens what is clicked, and subscribes anew when the browser must.

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// A push that shows nothing costs the subscription in Safari and counts against a quota in Firefox:
// whatever arrives, something is shown.
self.addEventListener("push", (event) => {
  const { title, ...options } = read(event.data);
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
function read(data) {
  const text = data?.text() ?? "";
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return { title: text || location.hostname };
  }
  const notification = message?.notification ?? message;
  if (typeof notification !== "object" || notification === null) return { title: text };
  const { title, navigate, actions, data: own, ...options } = notification;
  return {
    ...options,
    title: String(title ?? location.hostname),
    actions: Array.isArray(actions) ? actions.map(({ action, title, icon }) => ({ action, title, icon })) : [],
    data: {
      own,
      navigate,
      actions: Object.fromEntries((Array.isArray(actions) ? actions : []).map((one) => [one.action, one.navigate])),
    },
  };
}

async function open(target) {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const there = windows.find((client) => client.url === target.href);
  return there ? there.focus() : self.clients.openWindow(target);
}

async function renew({ oldSubscription, newSubscription }) {
  const subscription = newSubscription ?? (await subscribeAnew(oldSubscription));
  const answer = await post("subscribe", subscription);
  if (answer.ok && oldSubscription && oldSubscription.endpoint !== subscription.endpoint) {
    await post("unsubscribe", { endpoint: oldSubscription.endpoint });
  }
  if (answer.status === 401 || answer.status === 403) await subscription.unsubscribe();
}

async function subscribeAnew(oldSubscription) {
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
