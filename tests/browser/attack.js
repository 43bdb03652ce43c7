// A page of another origin tries to read and to change the subscriptions of the signed-in user.
// Returns the paths whose responses it could read.
const [site, body] = args;
const readable = [];
const attempt = async (path, options) => {
  try {
    const response = await fetch(site + path, { credentials: "include", ...options });
    if (response.type !== "opaque") readable.push(path);
  } catch {}
};
const json = { method: "POST", body, headers: { "Content-Type": "application/json" } };
await attempt("/push/subscribe", json);
await attempt("/push/subscriptions", {});
await attempt("/push/subscriptions/1", { method: "DELETE" });
for (const type of ["text/plain", "application/x-www-form-urlencoded"]) {
  await attempt("/push/subscribe", { method: "POST", mode: "no-cors", body, headers: { "Content-Type": type } });
}
navigator.sendBeacon(site + "/push/unsubscribe", body);
for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.name = enctype;
  const form = document.body.appendChild(document.createElement("form"));
  Object.assign(form, { method: "POST", action: site + "/push/subscribe", enctype, target: enctype });
  form.append(Object.assign(document.createElement("input"), { name: body, value: "" }));
  const loaded = new Promise((resolve) => { frame.onload = resolve; });
  form.submit();
  await loaded;
}
return readable;
