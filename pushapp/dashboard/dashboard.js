// Fetches the page again every few seconds and replaces the sections that have changed.
const INTERVAL = 5_000; // milliseconds
const TIMEOUT = 10_000;

const problem = document.getElementById("problem");
let timer;

function replace(section, next) {
  for (const open of section.querySelectorAll("details[open]")) next.querySelector(`#${open.id}`)?.setAttribute("open", "");
  if (section.isEqualNode(next)) return;
  const focused = section.contains(document.activeElement) ? document.activeElement : null;
  section.replaceWith(next);
  if (focused) {
    const same = [...next.querySelectorAll(focused.tagName)];
    (same.find((element) => element.href === focused.href && element.textContent === focused.textContent) ?? same[0])
      ?.focus({ preventScroll: true });
  }
}

function show(page) {
  const [main, next] = [document, page].map((each) => each.querySelector("main"));
  const ids = (element) => [...element.children].map((section) => section.id).join();
  if (ids(main) === ids(next)) [...main.children].forEach((section) => replace(section, next.querySelector(`#${section.id}`)));
  else main.replaceWith(next);
  document.getElementById("updated").replaceWith(page.getElementById("updated"));
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const response = await fetch(location.pathname, { signal: AbortSignal.timeout(TIMEOUT) });
    if (!response.ok) throw new Error(response.status === 503 ? "The database is unavailable." : `The server says ${response.status}.`);
    show(new DOMParser().parseFromString(await response.text(), "text/html"));
    problem.hidden = true;
  } catch (error) {
    const reason = error instanceof TypeError || error.name === "TimeoutError" ? "The server cannot be reached." : error.message;
    if (problem.hidden || !problem.textContent.startsWith(reason)) problem.textContent = `${reason} Trying again.`;
    problem.hidden = false;
  }
  timer = setTimeout(refresh, INTERVAL);
}

document.addEventListener("visibilitychange", refresh);
timer = setTimeout(refresh, INTERVAL);
