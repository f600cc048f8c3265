// The page of a job: charts, the log, and what changes while the job runs.
import { Charts } from "./charts.js";
import { Log } from "./log.js";
import * as notice from "./notice.js";

const RUNNING_SECONDS = 1.5;
const RETRY_SECONDS = 3;

const host = document.getElementById("charts");
const { url, jobs } = host.dataset;
const charts = new Charts(host);
const log = new Log(document.getElementById("follow"));
let seen = Number(host.dataset.number);
let digest = "";

async function load(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (response.ok) return response.json();
  const body = await response.json().catch(() => ({}));
  throw Object.assign(new Error(body.detail ?? ""), { status: response.status });
}

/** Load the whole of a job's metrics, and those of the jobs that are drawn with it. */
async function loadSeries() {
  const found = await load(`${url}/series`);
  charts.set("", found);
  return found.number;
}

async function loadOverlaid() {
  for (const id of host.dataset.overlaid.split(",").filter(Boolean)) {
    try {
      charts.set(id, await load(`${jobs}/${encodeURIComponent(id)}/series`));
    } catch (error) {
      notice.show((error.status && error.message) || `The job ${id} cannot be drawn.`);
    }
  }
}

/** Replace the parts of the page that changed, and keep what the reader has focused. */
function update(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const part = document.getElementById(id);
    if (part.contains(document.activeElement)) continue;
    const fresh = new DOMParser().parseFromString(html, "text/html").body;
    part.replaceChildren(...fresh.childNodes);
  }
  forms();
  document.dispatchEvent(new Event("times"));
}

/** Give the forms of a part, which all followers share, the token of this reader. */
function forms() {
  const token = document.getElementById("export-form").content;
  for (const form of document.querySelectorAll("form[data-export]")) {
    if (!token.firstElementChild) form.remove();
    else if (!form.querySelector("[name=form_token]")) form.prepend(token.cloneNode(true));
  }
}

async function follow() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, RUNNING_SECONDS * 1000));
    if (document.hidden) continue;
    try {
      const news = await load(`${url}/live?after=${seen}&digest=${digest}`);
      notice.connected();
      if (news.parts) {
        digest = news.digest;
        update(news.parts);
      }
      if (news.reset) {
        await loadSeries();
        log.reload(url);
      } else {
        charts.add(news.points);
        log.add(news.lines);
      }
      seen = news.number;
      if (news.ended) {
        // Cancelling, retrying and downloading now differ, and the metrics are final.
        for (const form of document.querySelectorAll("[data-while-running]")) form.remove();
        await loadSeries();
        const status = document.querySelector("#state .chip").textContent;
        notice.show(`The job is ${status}.`, [location.href, "Reload the page"]);
        return;
      }
    } catch (error) {
      if (error.status === undefined) notice.lost();
      else if (!notice.refused(error.status, error.message)) return;
      await new Promise((resolve) => setTimeout(resolve, RETRY_SECONDS * 1000));
    }
  }
}

async function start() {
  forms();
  try {
    await loadSeries();
  } catch (error) {
    charts.say((error.status && error.message) || "The metrics cannot be loaded; reload the page.");
  }
  await loadOverlaid();
  if (host.dataset.ended !== "true") await follow();
}

start();
