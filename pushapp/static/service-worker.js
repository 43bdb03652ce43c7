// Shows push messages, opens their targets, and renews the subscription. It is a worker of its own, or part of
// the site's: importScripts("/push/service-worker.js").
(() => {
  if (self.pushapp) return; // imported twice
  self.pushapp = true;

  const PREFIX = "/push/"; // the server writes its own
  const PING_TIMEOUT = 500; // milliseconds; browsers allow to open a window for a second after the click
  const REQUEST_TIMEOUT = 15_000;
  const STORAGE_TIMEOUT = 5_000;
  const RENEWAL_WINDOW = 50_000; // a browser stops a worker after about a minute
  const MAX_RETRY_DELAY = 5_000;
  const MAX_REDIRECTS = 20;

  // A proxy may have added a prefix that the server does not know.
  const isOwnWorker = location.pathname.endsWith(`${PREFIX}service-worker.js`);
  const base = new URL(isOwnWorker ? "." : PREFIX, location);

  if (isOwnWorker) self.addEventListener("install", () => self.skipWaiting()); // the site decides for its own

  self.addEventListener("message", ({ data, ports }) => {
    if (data?.pushapp === "ping") ports[0]?.postMessage(true);
  });

  // Always show a notification: a push without one costs the subscription in Safari, and quota in Firefox.
  self.addEventListener("push", (event) => {
    const { title, appBadge, options } = parse(event.data);
    const showing = show(title, options).then((isShown) => isShown && report("shown", options.data));
    event.waitUntil(Promise.all([showing, setBadge(appBadge)]));
  });

  self.addEventListener("notificationclick", (event) => {
    const { pushapp, navigate, actions = {} } = event.notification.data ?? {};
    if (!pushapp && !isOwnWorker) return; // the site's own notification
    event.notification.close();
    const opening = open(toURL(actions[event.action] ?? navigate)).catch(() => {});
    event.waitUntil(Promise.all([opening, report("clicked", event.notification.data, event.action)]));
  });

  self.addEventListener("notificationclose", (event) => {
    event.waitUntil(report("closed", event.notification.data));
  });

  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event).catch(() => {})));

  // --- Notifications

  // Declarative Web Push ({"web_push": 8030, "notification": {…}}), any other JSON, plain text, or nothing.
  function parse(data) {
    const text = data?.text() ?? "";
    let message = text;
    try {
      message = JSON.parse(text);
    } catch {
      // plain text
    }
    if (!isObject(message)) return { title: titleOf(typeof message === "string" ? message : text), options: ours({}) };
    const { title, app_badge: badge, ...members } = isObject(message.notification) ? message.notification : message;
    const options = ours(members);
    if (typeof message.receipt === "string") options.data.receipt = message.receipt;
    return { title: titleOf(title), appBadge: message.app_badge ?? badge, options };
  }

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  function titleOf(title) {
    const text = ["string", "number"].includes(typeof title) ? String(title) : "";
    return text.trim() ? text : location.hostname;
  }

  // The options without what a browser rejects: that costs the option, not the notification.
  function ours({ navigate, actions, data, ...members }) {
    const options = Object.fromEntries(Object.entries(members).filter(([, value]) => value !== null));
    if (!["auto", "ltr", "rtl"].includes(options.dir)) delete options.dir;
    if (!options.tag) delete options.renotify;
    if (options.silent) delete options.vibrate;
    const isAction = (action) => typeof action?.action === "string" && typeof action.title === "string";
    const buttons = (Array.isArray(actions) ? actions : []).filter(isAction);
    return {
      ...options,
      actions: buttons.map(({ action, title, icon }) => (typeof icon === "string" ? { action, title, icon } : { action, title })),
      data: {
        pushapp: true,
        siteData: data,
        navigate,
        actions: Object.fromEntries(buttons.map((button) => [button.action, button.navigate])),
      },
    };
  }

  // A rejected call shows nothing: leave out each option in turn, and in the end all but the text and the target.
  async function show(title, options) {
    const without = (name) => ({ ...options, [name]: undefined });
    const { body, data } = options;
    const attempts = [options, ...Object.keys(options).map(without), { body, data }, { data }];
    for (const attempt of attempts) {
      try {
        await self.registration.showNotification(title, attempt);
        return true;
      } catch {
        // the next attempt has fewer options
      }
    }
  }

  async function setBadge(value) {
    const number = Number(value ?? NaN);
    if (!Number.isSafeInteger(number) || number < 0) return;
    try {
      await (number ? navigator.setAppBadge(number) : navigator.clearAppBadge());
    } catch {
      // this browser has no badges
    }
  }

  // --- Receipts

  // The message has a token if the site wants receipts. One that is lost is not worth a second request.
  async function report(event, data, action) {
    if (!data?.pushapp || !data.receipt) return;
    const address = (await read("subscription"))?.base ?? base;
    const body = { token: data.receipt, event, action: action || undefined };
    await send(address, "receipts", body, { keepalive: true }).catch(() => {});
  }

  // --- Clicks

  function toURL(target) {
    try {
      const url = new URL(target, location.origin);
      if (typeof target === "string" && url.protocol.startsWith("http")) return url;
    } catch {
      // no URL
    }
    return new URL("/", location.origin);
  }

  async function open(target) {
    const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    const pages = windows.filter(({ frameType }) => frameType !== "nested");
    const [redirects = {}, ...locations] = await Promise.all([read("redirects"), ...pages.map(locate)]);
    const urls = [target, redirects[target]].map(withoutFragment);
    const existing = pages[locations.findIndex((url) => urls.includes(withoutFragment(url)))];
    if (existing && (await existing.focus().catch(() => null))) return;
    const opened = await self.clients.openWindow(target);
    if (opened) await rememberRedirect(redirects, target, opened.url);
  }

  // A target that redirects is shown by a window with another URL.
  function rememberRedirect(redirects, target, url) {
    const isRedirected = withoutFragment(url) !== withoutFragment(target);
    const entries = Object.entries(redirects).filter(([from]) => from !== target.href);
    if (isRedirected) entries.push([target.href, url]);
    if (entries.length > MAX_REDIRECTS) entries.shift();
    return write("redirects", Object.fromEntries(entries));
  }

  const withoutFragment = (url) => String(url).split("#")[0];

  // `url` is where a window was opened; its page, if it has client.js, says where it is now.
  function locate(page) {
    const { port1, port2 } = new MessageChannel();
    return new Promise((resolve) => {
      port1.onmessage = ({ data }) => resolve(data);
      page.postMessage({ pushapp: "location" }, [port2]);
      setTimeout(resolve, PING_TIMEOUT, page.url);
    });
  }

  // --- Renewal

  // Never unsubscribes for good: what fails here is done by the next resume() of a page.
  async function renew({ oldSubscription, newSubscription }) {
    // Without a record, a subscription of the site's worker may be another library's.
    const given = isOwnWorker && oldSubscription && { base: base.href, ...oldSubscription.toJSON() };
    const old = (await read("subscription")) ?? given;
    if (!old || Notification.permission !== "granted") return;
    const end = Date.now() + RENEWAL_WINDOW;
    for (let delay = 1_000; ; delay = Math.min(delay * 2, MAX_RETRY_DELAY)) {
      try {
        const { publicKey } = await request(old.base, "vapid-public-key");
        const subscription = await subscribe(newSubscription, publicKey);
        const json = { ...subscription.toJSON(), applicationServerKey: publicKey };
        const { endpoint, keys } = json;
        const body = { endpoint: old.endpoint, auth: old.keys.auth, subscription: json };
        if (await request(old.base, "renew", body)) await replaceStored(old, { ...old, endpoint, keys });
        return;
      } catch {
        if (Date.now() + delay > end) return;
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  async function subscribe(newSubscription, applicationServerKey) {
    const { pushManager } = self.registration;
    const held = newSubscription ?? (await pushManager.getSubscription());
    if (held && keyOf(held) === applicationServerKey) return held;
    if (held) await held.unsubscribe(); // a browser has one, with one key
    return pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
  }

  function keyOf({ options }) {
    const text = btoa(String.fromCharCode(...new Uint8Array(options.applicationServerKey)));
    return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  }

  // Returns null if pushapp rejects the request, and throws if the server is unavailable, or a proxy responds.
  async function request(address, name, body) {
    const response = await send(address, name, body);
    const json = await response.json();
    if (response.status === 200 && (json.ok || json.publicKey)) return json;
    if (response.status < 500 && json.code === response.status) return null;
    throw new Error(`unavailable: ${response.status}`);
  }

  async function send(address, name, body, more) {
    const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
    return fetch(new URL(name, address), { ...post, ...more, cache: "no-store", redirect: "error", signal });
  }

  // --- Storage, shared with client.js

  const read = (name) => access((store) => store.get(name));
  const write = (name, value) => access((store) => store.put(value, name));

  // Unless a page has changed it meanwhile.
  async function replaceStored(old, value) {
    if ((await read("subscription"))?.endpoint !== old.endpoint) return;
    for (const name of [`wish ${old.user ?? ""}`, "subscription"]) await write(name, value);
  }

  function access(use) {
    return new Promise((resolve) => {
      const opening = indexedDB.open(`pushapp ${base.pathname}`);
      opening.onupgradeneeded = () => opening.result.createObjectStore("values");
      opening.onerror = () => resolve();
      opening.onsuccess = () => {
        const transaction = opening.result.transaction("values", "readwrite");
        const query = use(transaction.objectStore("values"));
        transaction.oncomplete = () => resolve(query.result);
        opening.result.close(); // after the transaction
      };
      setTimeout(resolve, STORAGE_TIMEOUT);
    });
  }
})();
