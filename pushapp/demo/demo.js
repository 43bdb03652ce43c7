import { current, resume, subscribe, supported, unsubscribe } from "../push/client.js";

const $ = (id) => document.getElementById(id);

let user = null; // who is signed in
let subscriptions = []; // of the user, as the server listed them last
let thisDevice = null; // id of this browser's subscription in the list, or null

async function call(method, path, body) {
  const response = await fetch(new URL(`..${path}`, import.meta.url), {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  }).catch(() => {
    throw new Error("The server could not be reached.");
  });
  if (response.ok) return response.status === 204 ? null : response.json();
  const { message } = await response.json().catch(() => ({}));
  throw new Error(message ?? `Request failed (${response.status}).`);
}

function showMessage(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

function showSignInError(text) {
  $("sign-in-error").textContent = text;
  $("name").ariaInvalid = String(text !== "");
}

async function showUser(name) {
  user = name;
  subscriptions = []; // the next user must not see this user's devices
  thisDevice = null;
  $("sign-in").hidden = name !== null;
  $("signed-in").hidden = name === null;
  $("user").textContent = name;
  await attempt(() => resume({ user })); // on every load: it never prompts
  if (name === null) $("name").focus();
  else await attempt(refresh);
}

/** Query the user's devices, and show them. If the server is unreachable, show the last known ones. */
async function refresh() {
  const subscription = await current();
  if (!subscription) thisDevice = null;
  try {
    const [list, found] = await Promise.all([
      call("GET", "/push/subscriptions"),
      subscription && call("POST", "/demo/device", { endpoint: subscription.endpoint }),
    ]);
    subscriptions = list.subscriptions;
    thisDevice = found?.id ?? null;
  } finally {
    showDevices();
  }
}

function showDevices() {
  const isOn = thisDevice !== null;
  $("switch").ariaChecked = String(isOn);
  $("send").hidden = subscriptions.length === 0;
  $("send").classList.toggle("quiet", !isOn);
  $("devices").replaceChildren(...subscriptions.map(device));
  $("no-devices").hidden = subscriptions.length > 0;
}

function element(name, ...children) {
  const created = document.createElement(name);
  created.append(...children);
  return created;
}

const format = (time) => new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

function device({ id, label, push_service: pushService, created_at: createdAt, last_sent_at: lastSentAt }) {
  const details = element("small", `since ${format(createdAt)}, ${lastSentAt ? `last sent ${format(lastSentAt)}` : "nothing sent yet"}`);
  if (id === thisDevice) details.prepend(element("strong", "this device"), ", ");
  const text = element("span", label ?? pushService, details);
  text.id = `device-${id}`;
  const buttons = element("div", button("test", "Test", id, test), button("remove", "Remove", id, remove));
  return element("li", text, buttons);
}

function button(name, title, id, action) {
  const created = element("button", title);
  created.id = `${name}-${id}`;
  created.className = "quiet";
  created.setAttribute("aria-labelledby", `${created.id} device-${id}`);
  created.onclick = () => action(id);
  return created;
}

async function test(id) {
  await press($(`test-${id}`), async () => {
    await call("POST", `/push/subscriptions/${id}/test`).finally(refresh);
    showMessage("Test notification sent.");
  });
  $(`test-${id}`)?.focus();
}

async function remove(id) {
  await press($(`remove-${id}`), async () => {
    // This device is unsubscribed in the browser too, so that the switch is off.
    const action = id === thisDevice ? unsubscribe() : call("DELETE", `/push/subscriptions/${id}`);
    await action.finally(refresh);
    showMessage("Device removed.");
  });
  // The list is new: its buttons have lost the focus.
  ($(`remove-${id}`) ?? $("devices-title")).focus();
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    showMessage(error.message, true);
  }
}

/** Attempt an action with its button disabled meanwhile. */
async function press(pressed, action) {
  const hadFocus = document.activeElement === pressed;
  pressed.disabled = true;
  showMessage("");
  await attempt(action);
  pressed.disabled = false;
  if (hadFocus) pressed.focus(); // a disabled button may lose it
}

$("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  try {
    const { name } = await call("POST", "/demo/sign-in", { name: $("name").value });
    showSignInError("");
    await showUser(name);
    $("switch").focus();
  } catch (error) {
    showSignInError(error.message);
    $("name").focus();
  }
};

$("sign-out").onclick = () =>
  press($("sign-out"), async () => {
    await resume({ user: null }); // while the server still knows the user: it deletes the subscription at once
    await call("POST", "/demo/sign-out", {});
    await showUser(null);
  });

$("switch").onclick = () =>
  press($("switch"), () => (thisDevice === null ? subscribe({ user }) : unsubscribe()).finally(refresh));

$("send").onclick = () =>
  press($("send"), async () => {
    showMessage("Sending…");
    const { sent, gone, failed } = await call("POST", "/demo/send", {}).finally(refresh);
    showMessage(`Sent to ${sent} of ${sent + gone + failed} devices.`, sent === 0);
  });

if (!supported()) await attempt(subscribe); // shows the reason
try {
  await showUser((await call("GET", "/demo/user")).name);
} catch (error) {
  await showUser(null);
  showSignInError(error.message);
}
document.body.dataset.ready = "true";
