// The log: it follows the job, keeps its place when the reader scrolls, and shows local times.

const KEPT = 2000;

export class Log {
  constructor(follow) {
    this.follow = follow;
    this.bottom();
    this.clocks();
    document.addEventListener("htmx:after:swap", () => { this.clocks(); });
    follow.addEventListener("change", () => this.bottom());
  }

  get list() { return document.getElementById("log"); }

  /** Append lines, unless the log shows the result of a search. */
  add(lines = []) {
    const list = this.list;
    if (!lines.length || list.dataset.filtered === "true") return;
    const last = Number([...list.querySelectorAll(".line")].at(-1)?.dataset.cursor ?? 0);
    for (const line of lines) {
      if (line.cursor > last) list.append(this.row(line));
    }
    list.querySelector("p.quiet")?.remove();
    const rows = list.querySelectorAll(".line");
    for (let at = 0; at < rows.length - KEPT; at += 1) rows[at].remove();
    this.bottom();
  }

  /** Load the newest lines again. */
  reload(url) {
    if (this.list.dataset.filtered !== "true") {
      htmx.ajax("GET", `${url}/log`, { target: "#log", swap: "outerHTML" }).then(() => this.bottom());
    }
  }

  row(line) {
    const row = document.createElement("div");
    row.className = `line ${line.level}`;
    row.dataset.cursor = line.cursor;
    const time = document.createElement("time");
    time.dateTime = line.time;
    time.dataset.clock = "";
    clock(time);
    row.append(time, span("level", line.level), span("text", line.message));
    return row;
  }

  clocks() {
    for (const time of document.querySelectorAll("time[data-clock]")) clock(time);
  }

  bottom() {
    if (this.follow.checked) this.list.scrollTop = this.list.scrollHeight;
  }
}

function clock(time) {
  const moment = new Date(time.dateTime);
  time.textContent = moment.toLocaleTimeString([], { hour12: false });
  time.title = moment.toLocaleString();
}

function span(name, text) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = text;
  return made;
}
