import { current, resume, subscribe, supported, unsubscribe } from "../push/client.js";

const $ = (id) => document.getElementById(id);
let user = null; // who is signed in

async function call(method, path, body) {
  const response = await fetch(new URL(`..${path}`, import.meta.url), {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error((await response.json()).message ?? response.statusText);
  return response.status === 204 ? null : response.json();
}

function showMessage(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

async function showUser({ name }) {
  user = name;
  $("sign-in").hidden = name !== null;
  $("signed-in").hidden = name === null;
  if (name === null) {
    $("devices").replaceChildren(); // the next user must not see this user's devices
    $("switch").setAttribute("aria-checked", "false");
    $("name").focus();
    return;
  }
  $("user").textContent = name;
  await attempt(() => resume({ user }));
  await attempt(showDevices, $("message").textContent);
}

async function showDevices() {
  const subscription = await current();
  $("switch").setAttribute("aria-checked", String(subscription !== null));
  const { subscriptions } = await call("GET", "/push/subscriptions");
  const here = subscription && (await call("POST", "/demo/device", { endpoint: subscription.endpoint })).id;
  $("devices").replaceChildren(...subscriptions.map((each) => device(each, each.id === here)));
  $("no-devices").hidden = subscriptions.length > 0;
  $("send").hidden = subscriptions.length === 0;
}

function device({ id, push_service: pushService, created_at: createdAt }, isThisDevice) {
  const item = document.createElement("li");
  const text = document.createElement("span");
  const since = document.createElement("small");
  const remove = document.createElement("button");
  text.textContent = pushService;
  since.textContent = `${isThisDevice ? "this device, " : ""}since ${new Date(createdAt).toLocaleString()}`;
  text.append(since);
  remove.textContent = "Remove";
  remove.className = "quiet";
  remove.ariaLabel = `Remove ${isThisDevice ? "this device" : pushService}`;
  // This device is unsubscribed in the browser too, so that the switch is off.
  const action = isThisDevice ? unsubscribe : () => call("DELETE", `/push/subscriptions/${id}`);
  remove.onclick = () => change(remove, action);
  item.append(text, remove);
  return item;
}

/** Do what a control is for, with the control disabled meanwhile, and show the result. */
async function change(control, action) {
  control.disabled = true;
  const message = await attempt(action);
  await attempt(showDevices, message);
  control.disabled = false;
}

/** Run an action, and show `message` or the reason of its failure; returns what is shown. */
async function attempt(action, message = "") {
  try {
    await action();
    showMessage(message, $("message").classList.contains("error") && message !== "");
  } catch (error) {
    showMessage(error instanceof TypeError ? "The server could not be reached." : error.message, true);
  }
  return $("message").textContent;
}

$("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  const name = $("name").value;
  $("sign-in-error").textContent = "";
  try {
    await showUser(await call("POST", "/demo/sign-in", { name }));
  } catch (error) {
    $("sign-in-error").textContent = error.message;
  }
};

$("sign-out").onclick = async () => {
  await attempt(unsubscribe); // the next user must not see this user's notifications
  await attempt(async () => showUser(await call("POST", "/demo/sign-out", {})));
};

$("switch").onclick = async () => change($("switch"), (await current()) ? unsubscribe : () => subscribe({ user }));

$("send").onclick = async () => {
  $("send").disabled = true;
  showMessage("Sending…");
  try {
    const { sent, gone, failed } = await call("POST", "/demo/send", {});
    await showDevices();
    showMessage(`Sent to ${sent} of ${sent + gone + failed} devices.`, sent === 0);
  } catch (error) {
    showMessage(error instanceof TypeError ? "The server could not be reached." : error.message, true);
  }
  $("send").disabled = false;
};

if (!supported()) await attempt(subscribe); // shows the reason
await showUser(await call("GET", "/demo/user"));
document.body.dataset.ready = "true";
