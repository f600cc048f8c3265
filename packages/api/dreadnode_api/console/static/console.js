// What every page has: the theme switch, times that stay true, and htmx with our form token.
import * as notice from "./notice.js";

const THEMES = ["auto", "light", "dark"];

function themes() {
  const button = document.getElementById("theme");
  const current = () => localStorage.getItem("theme") ?? "auto";
  const label = () => {
    button.setAttribute("aria-label", `Color theme: ${current()}`);
    button.title = `Color theme: ${current()}`;
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(current()) + 1) % THEMES.length];
    if (next === "auto") localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
    label();
    document.dispatchEvent(new Event("theme"));
  });
  label();
  matchMedia("(prefers-color-scheme: dark)")
    .addEventListener("change", () => document.dispatchEvent(new Event("theme")));
}

/** Return how long SECONDS are, by the largest unit. */
function span(seconds) {
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function times() {
  for (const each of document.querySelectorAll("time[datetime]:not([data-clock])")) {
    const moment = new Date(each.dateTime);
    const text = span((Date.now() - moment) / 1000);
    if (each.textContent !== text) each.textContent = text;
    each.title = moment.toLocaleString();
  }
}

function htmxEvents() {
  const token = document.querySelector("meta[name=form-token]").content;
  const polls = (event) => event.detail.ctx.sourceElement.hasAttribute("data-poll");
  const on = (name, listen) => document.addEventListener(`htmx:${name}`, listen);
  on("config:request", (event) => {
    event.detail.ctx.request.headers["X-Form-Token"] = token;
  });
  on("before:request", (event) => {
    if (polls(event) && document.hidden) event.preventDefault();
  });
  // What a page shows stays when new data cannot be had.
  on("after:request", (event) => {
    const { response, text } = event.detail.ctx;
    if (response.status < 400) {
      notice.connected();
    } else if (polls(event)) {
      event.preventDefault();
      const message = new DOMParser().parseFromString(text, "text/html").body.textContent.trim();
      if (!notice.refused(response.status, message)) {
        event.detail.ctx.sourceElement.removeAttribute("data-poll");
        event.detail.ctx.sourceElement.setAttribute("data-stopped", "");
      }
    }
  });
  on("before:request", (event) => {
    if (event.detail.ctx.sourceElement.hasAttribute("data-stopped")) event.preventDefault();
  });
  on("error", (event) => { if (event.detail.ctx && polls(event)) notice.lost(); });
  on("after:swap", times);
}

/** Ask before a form with `data-confirm` is sent. */
function confirmations() {
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });
}

document.addEventListener("times", times);
themes();
times();
setInterval(times, 15000);
htmxEvents();
confirmations();
