// Connection, keyboard, dialogs, filter and copying. Charts are in charts.js; htmx does the rest.
"use strict";

// ---- Live, reconnecting, or stale since: what is shown is never passed off as newer than it is.

const STALE_AFTER_MS = { live: 12000, connecting: 12000, reconnecting: 5000 };
const live = document.getElementById("live");
const announce = document.getElementById("announce");
let heardAt = performance.now();
let asOf = "";

function showLive(state) {
  const before = live.dataset.live;
  if (before === state) return;
  live.dataset.live = state;
  const words = { live: "Live", reconnecting: "Reconnecting", stale: `Stale since ${asOf || "loading"}` };
  live.querySelector(".live-text").textContent = words[state];
  if (state === "stale") announce.textContent = words.stale;
  else if (before === "stale") announce.textContent = "Live again";
  for (const button of document.querySelectorAll("[data-command]")) button.disabled = state === "stale";
}

function heard() {
  heardAt = performance.now();
  showLive("live");
}

document.addEventListener("htmx:sse:before:message", heard);
document.addEventListener("htmx:sse:error", () => live.dataset.live !== "stale" && showLive("reconnecting"));
document.addEventListener("htmx:sse:before:connection", (event) => {
  if (event.detail.connection.attempt > 0 && live.dataset.live === "live") showLive("reconnecting");
});
document.addEventListener("beat", (event) => { asOf = event.detail.data; });
document.addEventListener("reload", () => location.reload());
setInterval(() => {
  if (performance.now() - heardAt > STALE_AFTER_MS[live.dataset.live]) showLive("stale");
}, 1000);

// ---- Dialogs. Every order is asked for in one; nothing destructive lies on a bare key.

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.dialog) open(button.dataset.dialog);
  else if ("close" in button.dataset) button.closest("dialog").close();
  else if (button.dataset.copy) copy(button);
});

function open(name) {
  const dialog = document.getElementById(`d-${name}`);
  dialog.querySelector(".problem")?.replaceChildren();
  dialog.showModal();
}

document.addEventListener("htmx:after:request", (event) => {
  const { sourceElement, response } = event.detail.ctx;
  const dialog = sourceElement.closest?.("dialog");
  if (!dialog || response.status >= 400) return;
  dialog.close();
  sourceElement.reset();
  // The button that opened it may be gone with the state that it belonged to.
  setTimeout(() => document.activeElement === document.body && document.getElementById("main").focus(), 200);
});

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

// ---- Filter: rows that are here at once, Enter asks the server for all of them.

function filterRows() {
  const input = document.querySelector("[data-filter]");
  const rows = document.querySelectorAll("[data-rows] > tr");
  if (!input || !rows.length) return;
  const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.querySelector(".no-match").hidden = shown > 0;
}

document.addEventListener("input", (event) => "filter" in event.target.dataset && filterRows());
document.addEventListener("htmx:after:swap", filterRows);

// ---- Keyboard. WCAG 2.1.4: single keys can be switched off.

const KEYS_OFF = "wherry.keys-off";
const keysOff = document.getElementById("keys-off");
keysOff.checked = localStorage.getItem(KEYS_OFF) === "yes";
keysOff.addEventListener("change", () => localStorage.setItem(KEYS_OFF, keysOff.checked ? "yes" : "no"));
let afterG = 0;

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox], [type=radio]), select, textarea");
  if (event.key === "Escape" && event.target.matches("[data-filter]")) event.target.blur();
  if (typing || keysOff.checked || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const going = performance.now() - afterG < 1500;
  afterG = event.key === "g" ? performance.now() : 0;
  const link = going && document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
  const input = document.querySelector("[data-filter]");
  if (link) link.click();
  else if (event.key === "/" && input) { input.focus(); input.select(); }
  else if (event.key === "?") open("help");
  else return;
  event.preventDefault();
});
