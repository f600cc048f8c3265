// The charts of compared jobs, drawn over each other.
import { Charts } from "./charts.js";
import * as notice from "./notice.js";

const host = document.getElementById("charts");
const charts = new Charts(host);

/** Draw a job; the first one is the one whose series are loaded in detail. */
async function draw(id, at) {
  try {
    const response = await fetch(`${host.dataset.jobs}/${id}/series`, { headers: { Accept: "application/json" } });
    const body = await response.json();
    if (!response.ok) throw new Error(body.detail);
    charts.set(at ? id : "", body);
  } catch (error) {
    notice.show(error.message || `The metrics of job ${id} cannot be loaded.`);
  }
}

// One after the other, so that every job keeps its color.
for (const [at, id] of host.dataset.ids.split(",").entries()) await draw(id, at);
