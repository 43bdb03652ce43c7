// web-push on node, 64 concurrently: prints its number of messages, seconds and CPU seconds.
const fs = require("fs");
const https = require("https");
const crypto = require("crypto");
const webpush = require("web-push");

const subscriptions = JSON.parse(fs.readFileSync(process.argv[2])).slice(0, 10000);
const payload = JSON.stringify({ web_push: 8030, notification: { title: "Hello", body: "x".repeat(200) } }).padEnd(512);
const privateKey = process.env.FLASK_PUSH_VAPID_PRIVATE_KEY;
const ecdh = crypto.createECDH("prime256v1");
ecdh.setPrivateKey(Buffer.from(privateKey, "base64url"));
const publicKey = ecdh.getPublicKey("base64url");
const options = {
  TTL: 86400,
  agent: new https.Agent({ keepAlive: true, maxSockets: 64 }),
  vapidDetails: { subject: "mailto:webmaster@site.org", publicKey, privateKey },
};

async function main() {
  const startedAt = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  let next = 0;
  const post = async () => {
    while (next < subscriptions.length) await webpush.sendNotification(subscriptions[next++], payload, options);
  };
  await Promise.all(Array.from({ length: 64 }, post));
  const { user, system } = process.cpuUsage(cpu);
  console.log(subscriptions.length, Number(process.hrtime.bigint() - startedAt) / 1e9, (user + system) / 1e6);
  process.exit(0);
}

main();
