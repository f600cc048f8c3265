// The charts of a job: one for each metric, with the evaluations of the same metric, the marks of
// checkpoints, and the jobs that are drawn with it. uPlot draws; this module prepares its data.

const HEIGHT = 200;
const ZOOM_DELAY = 250;
const WHOLE_STEPS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((n) => [n, 2 * n, 5 * n]);
const SHOWN = 6;
const FIRST = [
  "train/reward", "train/loss", "eval/reward_history", "eval/loss_history", "train/kl_sampler_trainer",
  "train/entropy", "train/degenerate_groups", "train/truncated_fraction",
  "train/completion_tokens_mean", "train/learning_rate", "train/num_tokens", "train/step_seconds",
];

/** Return the chart that a metric belongs to: an evaluation is drawn with what it evaluates. */
function chartOf(name, names) {
  const trained = name.replace(/^eval\//, "train/").replace(/_history$/, "");
  return name.startsWith("eval/") && names.has(trained) ? trained : name;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const round = (value) => (value === null || value === undefined ? "–"
  : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(2) : String(Number(value.toPrecision(4))));

/** Return an exponential moving average that leaves gaps as gaps. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let sum = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

export class Charts {
  constructor(host) {
    this.host = host;
    this.marks = host.dataset.marks.split(",").filter(Boolean).map(Number);
    this.tools = document.getElementById("chart-tools");
    this.runs = new Map();
    this.detail = null;
    this.drawn = new Map();
    this.range = null;
    this.sync = uPlot.sync("steps");
    this.pending = false;
    this.all = false;
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.hidden = true;
    this.button.addEventListener("click", () => {
      this.all = true;
      this.draw();
    });
    host.after(this.button);
    this.tools.addEventListener("input", (event) => this.tool(event));
    this.tools.addEventListener("submit", (event) => event.preventDefault());
    this.tools.addEventListener("reset", () => setTimeout(() => this.zoom(null)));
    document.addEventListener("theme", () => this.draw(true));
    new ResizeObserver(() => this.resize()).observe(host);
  }

  /** Take the whole series of a job; an empty ID is the job of this page. */
  set(id, found) {
    this.runs.set(id, { name: found.name, series: found.series });
    this.draw();
  }

  /** Add the points of this page's job that are new. */
  add(points = {}) {
    const run = this.runs.get("");
    if (!run || !Object.keys(points).length) return;
    for (const [name, [steps, values]] of Object.entries(points)) {
      const known = run.series[name] ??= [[], []];
      const last = known[0].at(-1) ?? -Infinity;
      steps.forEach((step, at) => {
        if (step > last) { known[0].push(step); known[1].push(values[at]); }
      });
    }
    this.draw();
  }

  /** Show a sentence in place of the charts. */
  say(text) {
    let line = document.getElementById("charts-state");
    if (!line) {
      line = document.createElement("p");
      line.id = "charts-state";
      line.className = "quiet";
      this.host.append(line);
    }
    line.textContent = text;
  }

  draw(anew = false) {
    if (anew) this.anew = true;
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.drawNow();
    });
  }

  drawNow() {
    const names = new Set([...this.runs.values()].flatMap((run) => Object.keys(run.series)));
    const groups = new Map();
    for (const name of names) {
      const chart = chartOf(name, names);
      groups.set(chart, [...(groups.get(chart) ?? []), name]);
    }
    if (!groups.size) {
      this.say("No metrics yet.");
      return;
    }
    document.getElementById("charts-state")?.remove();
    const order = [...groups.keys()].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
    for (const chart of this.more(order)) {
      const shape = JSON.stringify([groups.get(chart), [...this.runs.keys()], this.options()]);
      const found = this.drawn.get(chart);
      const data = this.data(groups.get(chart));
      if (found && found.shape === shape && !this.anew) {
        found.plot.setData(data.rows, !this.range);
        if (this.range) this.setScale(found.plot);
        this.describe(found.figure, chart, data);
      } else {
        this.make(chart, shape, data, found);
      }
    }
    this.anew = false;
    this.legend();
  }

  /** Return the charts to draw: the first ones, until the reader asks for all of them. */
  more(order) {
    this.button.hidden = this.all || order.length <= SHOWN;
    this.button.textContent = `Show all ${order.length} metrics`;
    return order.filter((chart, at) => this.all || at < SHOWN || this.drawn.has(chart));
  }

  options() {
    return { smooth: Number(this.tools.smooth.value), log: this.tools.log.checked };
  }

  /** Return a run's series, in detail where the reader has zoomed in. */
  series(id, name) {
    const detailed = id === "" && this.detail ? this.detail[name] : undefined;
    return detailed ?? this.runs.get(id).series[name];
  }

  data(names) {
    const { smooth, log } = this.options();
    const tables = [];
    const lines = [];
    [...this.runs.keys()].forEach((id, at) => {
      for (const name of names) {
        const found = this.series(id, name);
        if (!found?.[0].length) continue;
        const values = log ? found[1].map((v) => (v > 0 ? v : null)) : found[1];
        const isEvaluation = name.startsWith("eval/");
        const line = { id, name, run: at, isEvaluation };
        if (smooth && !isEvaluation) {
          tables.push([found[0], values]);
          lines.push({ ...line, isFaint: true });
        }
        tables.push([found[0], isEvaluation ? values : smoothed(values, smooth)]);
        lines.push(line);
      }
    });
    const rows = tables.length ? uPlot.join(tables) : [[]];
    return { rows, lines };
  }

  make(chart, shape, data, found) {
    const figure = found?.figure ?? document.createElement("figure");
    if (!found) {
      figure.className = "chart";
      figure.dataset.metric = chart;
      figure.append(document.createElement("figcaption"), document.createElement("div"));
      figure.lastChild.setAttribute("role", "img");
      this.host.append(figure);
    }
    found?.plot.destroy();
    const plot = new uPlot(this.plotOptions(data), data.rows, figure.lastChild);
    this.sync.sub(plot);
    this.drawn.set(chart, { shape, figure, plot });
    if (this.range) this.setScale(plot);
    this.describe(figure, chart, data);
  }

  plotOptions(data) {
    const axis = {
      stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false }, font: `11px ${color("--sans")}`,
    };
    const isLog = this.options().log && data.rows.slice(1).some((row) => row.some((v) => v > 0));
    return {
      width: this.width(), height: HEIGHT, legend: { show: false },
      cursor: {
        sync: { key: "steps", setSeries: false }, drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
      },
      scales: { x: { time: false }, y: isLog ? { distr: 3 } : {} },
      axes: [
        { ...axis, size: 28, incrs: WHOLE_STEPS },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((v) => (v === null ? "" : round(v))) },
      ],
      series: [{}, ...data.lines.map((line) => this.line(line))],
      hooks: {
        draw: [(plot) => this.drawMarks(plot)],
        setSelect: [(plot) => this.select(plot)],
        setCursor: [(plot) => this.hover(plot, data)],
        ready: [(plot) => plot.over.addEventListener("dblclick", () => this.zoom(null))],
      },
    };
  }

  line(line) {
    const stroke = color(`--series-${(line.run % 6) + 1}`);
    if (line.isEvaluation) {
      return {
        stroke, width: 1, dash: [4, 3], spanGaps: true,
        points: { show: true, size: 8, fill: color("--surface"), stroke, width: 2 },
      };
    }
    return {
      stroke: line.isFaint ? `${stroke}40` : stroke, width: line.isFaint ? 1 : 1.75, spanGaps: false,
    };
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = color("--strong-line");
    ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.lineWidth = devicePixelRatio;
    for (const mark of this.marks) {
      if (mark < plot.scales.x.min || mark > plot.scales.x.max) continue;
      const x = Math.round(plot.valToPos(mark, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** Write the newest value of a chart into its caption, and what it shows for screen readers. */
  describe(figure, chart, data) {
    const at = data.lines.findIndex((line) => !line.isFaint);
    const values = (data.rows[at + 1] ?? []).filter((v) => v !== null && v !== undefined);
    const newest = round(values.at(-1));
    const title = document.createElement("span");
    title.textContent = chart.replace(/^train\//, "").replace(/_history$/, "").replaceAll("_", " ");
    const value = document.createElement("strong");
    value.textContent = newest;
    figure.firstChild.replaceChildren(title, value);
    figure.dataset.points = String(values.length);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    figure.lastChild.setAttribute(
      "aria-label", values.length
        ? `${chart} over steps: ${newest} now, lowest ${round(least)}, highest ${round(most)}`
        : `${chart} over steps: no values`);
  }

  /** Write the values under the cursor into the caption. */
  hover(plot, data) {
    const caption = plot.root.closest("figure")?.querySelector("figcaption strong");
    if (!caption) return;
    const at = plot.cursor.idx;
    const first = data.lines.findIndex((line) => !line.isFaint) + 1;
    const rows = plot.data;
    if (at === null || at === undefined || plot.cursor.left < 0) {
      const values = (rows[first] ?? []).filter((v) => v !== null && v !== undefined);
      caption.textContent = round(values.at(-1));
      return;
    }
    caption.textContent = `${round(rows[first]?.[at])} at step ${rows[0][at]}`;
  }

  tool(event) {
    if (event.target.name === "from" || event.target.name === "to") {
      const [from, to] = [this.tools.from.value, this.tools.to.value];
      clearTimeout(this.zooming);
      this.zooming = setTimeout(() => {
        const all = this.extent();
        this.zoom(from === "" && to === "" ? null
          : [from === "" ? all[0] : Number(from), to === "" ? all[1] : Number(to)], false);
      }, ZOOM_DELAY);
    } else {
      this.draw();
    }
  }

  extent() {
    const steps = [...this.runs.values()]
      .flatMap((run) => Object.values(run.series))
      .flatMap((found) => [found[0][0], found[0].at(-1)]);
    return [Math.min(...steps), Math.max(...steps)];
  }

  select(plot) {
    if (plot.select.width < 4) return;
    const left = plot.posToVal(plot.select.left, "x");
    const right = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.zoom([Math.max(0, Math.floor(left)), Math.ceil(right)]);
  }

  /** Show the steps of RANGE in all charts, and load them in detail; null shows all. */
  async zoom(range, write = true) {
    this.range = range && range[0] < range[1] ? range : null;
    this.detail = null;
    if (write) {
      this.tools.from.value = this.range?.[0] ?? "";
      this.tools.to.value = this.range?.[1] ?? "";
    }
    this.draw(!this.range);
    if (!this.range) return;
    const wanted = this.range;
    const response = await fetch(`${this.host.dataset.url}/series/${Math.floor(wanted[0])}-${Math.ceil(wanted[1])}`);
    if (response.ok && this.range === wanted) {
      this.detail = (await response.json()).series;
      this.draw();
    }
  }

  setScale(plot) { plot.setScale("x", { min: this.range[0], max: this.range[1] }); }

  width() {
    const first = this.host.querySelector(".chart > div");
    return Math.max(200, Math.floor(first?.clientWidth ?? Math.min(this.host.clientWidth, 420) - 24));
  }

  resize() {
    for (const { plot, figure } of this.drawn.values()) {
      const width = Math.max(200, Math.floor(figure.lastChild.clientWidth));
      if (width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  }

  /** Name the jobs that are drawn together. */
  legend() {
    const list = document.getElementById("legend");
    list.hidden = this.runs.size < 2;
    list.replaceChildren(...[...this.runs.values()].map((run, at) => {
      const entry = document.createElement("li");
      entry.className = `series-${(at % 6) + 1}`;
      entry.textContent = run.name;
      return entry;
    }));
  }
}

function rank(chart) {
  const at = FIRST.indexOf(chart);
  return at < 0 ? FIRST.length : at;
}
