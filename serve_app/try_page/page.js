"use strict";

const AT_ONCE = 4;
const MOST_RESULTS = 100;
const USERS_PER_PAGE = 10;
const KEY = /^[\x21-\x7e]+$/; // others cannot be sent in a header
const model = new URL("./", location.href);
const $ = (id) => document.getElementById(id);

let key = null; // in memory only
let modelHasKeys = false; // other applications may have other keys, or none
let about = null;
let servedTurn = 0; // only what was asked last counts
let underWay = 0;
let removed = 0; // results that made room for newer ones since the list was cleared
const waiting = [];
const inWork = new Set(); // the results of pictures that wait or are under way
const failed = new Set(); // the results that are errors; they stay in the list

// ---- the service ----------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail || `the service answered ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.id = body.request_id || "";
    this.retryAfter = retryAfter;
  }
}

async function ask(url, options = {}) {
  const headers = { ...options.headers, ...(key === null ? {} : { "X-API-Key": key }) };
  let response;
  try {
    response = await fetch(url, { ...options, headers });
  } catch {
    throw new Refused(0, { detail: "the service does not answer; check that it runs and that you are connected, then send again" });
  }
  const body = await response.json().catch(() => ({}));
  if (response.status === 401 && (key === null || !modelHasKeys)) $("keys").hidden = false;
  if (!response.ok) throw new Refused(response.status, body, response.headers.get("Retry-After"));
  return { body, headers: response.headers };
}

async function askModel(url, options) {
  const used = key;
  try {
    return await ask(url, options);
  } catch (error) {
    if (error.status === 401) modelHasKeys = true;
    if (error.status === 401 && key === used) {
      key = null;
      $("keys").hidden = false;
    }
    throw error;
  }
}

function describeFault(error) {
  const parts = [error.message];
  if (error.retryAfter) parts.push(`Try again in ${error.retryAfter} s.`);
  return parts.join(". ").replace(/\.\. /g, ". ");
}

// ---- what is served -------------------------------------------------------------------------------------------------

async function showServed() {
  const turn = (servedTurn += 1);
  const wasGiven = key !== null;
  try {
    const { body } = await askModel(model);
    if (turn !== servedTurn) return;
    about = body;
  } catch (error) {
    if (turn !== servedTurn) return;
    $("served").textContent = error.status === 401 ? "Give a key to see what is served." : describeFault(error);
    if (wasGiven && error.status === 401) askAgain("The service does not know this key; copy it again.");
    if (key !== null) $("keys").hidden = false;
    return;
  }
  $("served").textContent =
    `${about.name} on ${about.engine} (${about.precision}), ${about.classes} classes, weights: ${about.weights}, ` +
    `labels: ${about.labels}. Formats: ${about.formats.join(", ")}.`;
  document.title = `Try ${about.name}`;
  const warnings = [];
  if (about.weights === "random") {
    warnings.push("Random weights: these predictions mean nothing. Set `weights:` in the config for real ones.");
  } else if (about.labels === "placeholder") {
    warnings.push("The classes have numbers for names. Set `labels:` in the config.");
  }
  $("warning").hidden = warnings.length === 0;
  $("warning").textContent = warnings.join(" ");
}

function askAgain(fault) {
  $("key-fault").textContent = fault;
  $("key-fault").hidden = false;
  $("keys").hidden = false;
  $("key").focus();
}

async function showLinks() {
  let routes = {};
  try {
    ({ body: routes } = await ask(new URL("/-/routes", location.origin)));
  } catch {
    routes = { [model.pathname.replace(/\/$/, "")]: "model" };
  }
  const entries = [];
  for (const [prefix, name] of Object.entries(routes)) {
    const base = new URL(`${prefix.replace(/\/$/, "")}/`, location.origin);
    entries.push([`API of ${name}`, new URL("docs", base)]);
    if (name === "users") users.begin(base);
    else if (base.href !== model.href) entries.push([`Try ${name}`, new URL("try", base)]);
  }
  const dashboard = document.documentElement.dataset.dashboard;
  if (dashboard) entries.push(["Ray dashboard", new URL(dashboard)]);
  $("links").replaceChildren(...entries.map(([text, url]) => element("li", {}, element("a", { href: url.href }, text))));
}

// ---- pictures -------------------------------------------------------------------------------------------------------

function take(files) {
  for (const file of files) enqueue(file, addResult(file));
  removeOldest();
  $("clear").hidden = $("results").children.length === 0;
  sendNext();
}

function enqueue(file, item) {
  inWork.add(item);
  failed.delete(item);
  item.querySelector(".out").replaceChildren(element("p", { class: "dim" }, "Waiting …"));
  waiting.push({ file, item });
}

function sendNext() {
  while (underWay < AT_ONCE && waiting.length) {
    underWay += 1;
    const { file, item } = waiting.shift();
    send(file, item).finally(() => {
      underWay -= 1;
      inWork.delete(item);
      removeOldest();
      sendNext();
    });
  }
  const left = underWay + waiting.length;
  const parts = [];
  if (left) parts.push(`${left} picture${left > 1 ? "s" : ""} under way`);
  if (removed) parts.push(`${removed} older result${removed > 1 ? "s" : ""} removed from the list`);
  $("progress").textContent = parts.join("; ");
}

async function send(file, item) {
  const out = item.querySelector(".out");
  const top = topClasses();
  out.replaceChildren(element("p", { class: "dim" }, "Under way …"));
  try {
    if (about && file.size > about.max_upload_bytes) {
      throw new Refused(413, { detail: `the picture has ${file.size.toLocaleString("en")} bytes, more than the ${about.max_upload_bytes.toLocaleString("en")} that are taken; send a smaller one` });
    }
    const began = performance.now();
    const type = file.type || "application/octet-stream";
    const { body, headers } = await askModel(new URL(`predict?top_k=${top}`, model), {
      method: "POST",
      body: file,
      headers: { "Content-Type": type },
    });
    const took = performance.now() - began;
    out.replaceChildren(...describe(body, headers.get("Server-Timing") || "", took), curlLine(file, top));
  } catch (error) {
    const again = element("button", { type: "button" }, "Send again");
    again.addEventListener("click", () => {
      enqueue(file, item);
      sendNext();
    });
    const code = [error.code, error.id && `request ${error.id}`].filter(Boolean).join(", ");
    out.replaceChildren(
      element("p", { class: "fault", role: "alert" }, describeFault(error)),
      ...(code ? [element("p", { class: "dim" }, code)] : []),
      again,
      curlLine(file, top),
    );
    if (inWork.has(item)) failed.add(item);
  }
}

function topClasses() {
  const wanted = Number.parseInt($("top").value, 10);
  return Math.min(10, Math.max(1, Number.isNaN(wanted) ? 5 : wanted));
}

function addResult(file) {
  const url = URL.createObjectURL(file);
  const picture = element("img", { src: url, alt: "" });
  picture.addEventListener("error", () => picture.remove()); // the browser does not show it; the service may
  const item = element(
    "li",
    {},
    element("div", {}, picture),
    element("div", {}, element("h3", {}, file.name || "pasted picture"), element("div", { class: "out" })),
  );
  item.dataset.url = url;
  $("results").prepend(item);
  return item;
}

function removeOldest() {
  const results = $("results").children;
  for (let at = results.length - 1; at >= 0 && results.length > MOST_RESULTS; at -= 1) {
    if (inWork.has(results[at]) || failed.has(results[at])) continue;
    removeResult(results[at]);
    removed += 1;
  }
}

function removeResult(item) {
  URL.revokeObjectURL(item.dataset.url);
  item.remove();
}

function describe(answer, timing, took) {
  const rows = answer.predictions.map(({ label, score }) => {
    const percent = `${(100 * score).toFixed(1)} %`;
    const bar = element("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${100 * score}%`;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, label),
      element("td", {}, bar),
      element("td", { class: "score" }, percent),
    );
  });
  const table = element(
    "table",
    { class: "classes" },
    element("caption", { class: "dim" }, answer.cached ? "Classes, from the cache" : "Classes"),
    element("tbody", {}, ...rows),
  );
  return [table, ...timeSpent(timing, took)];
}

function timeSpent(timing, took) {
  const stages = [...timing.matchAll(/([a-z]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  const served = stages.reduce((sum, [, ms]) => sum + ms, 0);
  const parts = [...stages, ["network", Math.max(0, took - served)]].filter(([, ms]) => ms >= 0.05);
  const bar = element("div", { class: "time", "aria-hidden": "true" });
  for (const [name, ms] of parts) {
    const part = element("div", { class: name });
    part.style.flexGrow = ms;
    bar.append(part);
  }
  const legend = parts.map(([name, ms]) =>
    element("li", {}, element("i", { class: name, "aria-hidden": "true" }), `${name} ${ms.toFixed(1)} ms`),
  );
  return [bar, element("ul", { class: "legend", "aria-label": "Where the time went" }, ...legend)];
}

function curlLine(file, top) {
  const quote = (text) => `'${text.replace(/'/g, "'\\''")}'`;
  const withKey = key === null ? "" : ' -H "X-API-Key: $API_KEY"';
  const name = file.name || "picture.png";
  const line = `curl${withKey} --data-binary @${quote(name)} ${quote(new URL(`predict?top_k=${top}`, model).href)}`;
  return element("details", {}, element("summary", {}, "The same request with curl"), element("pre", { tabindex: "0" }, line));
}

// ---- users ----------------------------------------------------------------------------------------------------------

const users = {
  base: null,
  pages: [null], // the `after` of each page up to the one that is shown; the first page has none
  next: null,
  isLoading: false,

  begin(base) {
    this.base = base;
    $("users").hidden = false;
    this.show();
  },

  async show(pages = this.pages) {
    if (this.isLoading) return; // the buttons stay enabled: a disabled one would lose the keyboard's focus
    this.isLoading = true;
    const url = new URL(this.base);
    url.searchParams.set("limit", USERS_PER_PAGE);
    if (pages.at(-1) !== null) url.searchParams.set("after", pages.at(-1));
    try {
      const { body } = await ask(url);
      const cells = ({ id, name, email }) => [id, name ?? "", email ?? ""].map((text) => element("td", {}, String(text)));
      $("people").replaceChildren(...body.users.map((user) => element("tr", {}, ...cells(user))));
      this.pages = pages;
      this.next = body.next;
      $("users-fault").hidden = true;
    } catch (error) {
      $("users-fault").textContent = describeFault(error);
      $("users-fault").hidden = false;
    }
    this.isLoading = false;
    $("previous").disabled = this.pages.length === 1;
    $("next").disabled = this.next === null;
  },
};

// ---- the page -------------------------------------------------------------------------------------------------------

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

$("files").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});
$("clear").addEventListener("click", () => {
  [...$("results").children].forEach(removeResult);
  waiting.length = 0;
  inWork.clear();
  failed.clear();
  removed = 0;
  sendNext(); // tells what is still under way
  $("clear").hidden = true;
  $("files").focus();
});
$("keys").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!KEY.test(given)) {
    askAgain("A key has letters, digits and signs of ASCII only, no spaces; copy it again.");
    return;
  }
  $("key-fault").hidden = true;
  key = given;
  $("key").value = "";
  $("keys").hidden = true;
  showServed();
  if (users.base) users.show();
});
$("previous").addEventListener("click", () => {
  users.show(users.pages.slice(0, -1));
});
$("next").addEventListener("click", () => {
  users.show([...users.pages, users.next]);
});

showServed();
showLinks();
