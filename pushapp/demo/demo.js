import { current, subscribe, supported, unsubscribe } from "/push/client.js";

const $ = (id) => document.getElementById(id);

async function call(method, path, body) {
  const response = await fetch(path, {
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
  $("sign-in").hidden = name !== null;
  $("signed-in").hidden = name === null;
  if (name === null) return;
  $("user").textContent = name;
  // With permission, every load tells the server again.
  if (await current()) await attempt(subscribe);
  await showDevices();
}

async function showDevices() {
  $("switch").setAttribute("aria-checked", String((await current()) !== null));
  const { subscriptions } = await call("GET", "/push/subscriptions");
  $("devices").replaceChildren(...subscriptions.map(device));
  $("no-devices").hidden = subscriptions.length > 0;
  $("send").hidden = subscriptions.length === 0;
}

function device({ id, push_service: pushService, created_at: createdAt }) {
  const item = document.createElement("li");
  const text = document.createElement("span");
  const since = document.createElement("small");
  const remove = document.createElement("button");
  text.textContent = pushService;
  since.textContent = `since ${new Date(createdAt).toLocaleString()}`;
  text.append(since);
  remove.textContent = "Remove";
  remove.className = "quiet";
  remove.ariaLabel = `Remove ${pushService}`;
  remove.onclick = () => attempt(() => call("DELETE", `/push/subscriptions/${id}`)).then(showDevices);
  item.append(text, remove);
  return item;
}

async function attempt(action) {
  try {
    await action();
    showMessage("");
  } catch (error) {
    showMessage(error.message, true);
  }
}

$("sign-in").onsubmit = async (event) => {
  event.preventDefault();
  await showUser(await call("POST", "/demo/sign-in", { name: $("name").value }));
};

$("sign-out").onclick = async () => {
  await attempt(unsubscribe); // the next user must not see this user's notifications
  await showUser(await call("POST", "/demo/sign-out", {}));
};

$("switch").onclick = async () => {
  $("switch").disabled = true;
  await attempt((await current()) ? unsubscribe : subscribe);
  await showDevices();
  $("switch").disabled = false;
};

$("send").onclick = async () => {
  $("send").disabled = true;
  showMessage("Sending…");
  try {
    const { sent, gone, failed } = await call("POST", "/demo/send", {});
    showMessage(`Sent to ${sent} of ${sent + gone + failed} devices.`, sent === 0);
  } catch (error) {
    showMessage(error.message, true);
  }
  await showDevices();
  $("send").disabled = false;
};

if (!supported()) await attempt(subscribe); // shows the reason
await showUser(await call("GET", "/demo/user"));
document.body.dataset.ready = "true";
