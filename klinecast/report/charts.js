// What every page shares: theme, numbers, and charts that are drawn anew when theme or width change.
const page = (() => {
  "use strict";
  const root = document.documentElement, darkness = matchMedia("(prefers-color-scheme: dark)");
  const data = JSON.parse(document.getElementById("data").textContent);
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const tone = (name, alpha) => `rgb(${color(name)}${alpha ? ` / ${alpha}` : ""})`;
  const minus = (text) => text.replace("-", "−");
  const money = (v) => (v == null ? "–" : minus(v.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })));
  // 7 digits, or cents where they are more: a small price and a large profit both keep what counts.
  const digits = { maximumSignificantDigits: 7, maximumFractionDigits: 2, roundingPriority: "morePrecision" };
  const number = (v) => (v == null ? "–" : minus(v.toLocaleString("en-US", digits)));
  const percent = (v) => (v == null ? "–" : minus((100 * v).toFixed(2)) + "%");
  const shortPercent = (v) => minus(String(+(100 * v).toPrecision(6))) + "%";
  const makers = [], drawn = [];

  const days = [
    [31536000, "{YYYY}", null, null, null, null, null, null, 1],
    [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
    [0.001, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  ];

  // The width of the widest label: a fixed one clips large prices.
  function labelWidth(plot, labels, axis, cycle) {
    if (cycle > 1 || !labels) return plot.axes[axis]._size || 50;
    plot.ctx.font = plot.axes[axis].font[0];
    return Math.ceil(Math.max(0, ...labels.map((one) => plot.ctx.measureText(one || "").width)) / devicePixelRatio) + 18;
  }

  // Draws into #id whenever needed. more: axes that differ from those of a curve over time.
  function chart(id, columns, series, format, tick, more = {}, empty = "Equity was not kept.") {
    makers.push((printed) => {
      const box = document.getElementById(id);
      if (!columns[0].length) { box.textContent = empty; box.classList.add("empty"); return; }
      const line = color("--line"), font = "12px system-ui, sans-serif";
      const axis = { stroke: color("--soft"), font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 5 } };
      const options = {
        width: printed ? Math.min(box.clientWidth, 660) : box.clientWidth, height: parseInt(getComputedStyle(box).getPropertyValue("--height"), 10),
        tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), "UTC"), hooks: more.hooks || {}, cursor: { points: { size: 7 }, ...more.cursor },
        scales: more.scales || {}, legend: { markers: { width: 0, fill: (plot, i) => plot.series[i]._stroke || plot.series[i].stroke(plot, i) } }, padding: [10, more.right || 12, 0, 0],
        axes: [{ ...axis, space: 60, values: days, ...more.x }, { ...axis, size: labelWidth, values: (_, ticks) => ticks.map(tick), ...more.y }],
        series: [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm}", label: "time", ...more.first }, ...series().map((one) => ({ width: 1.5, spanGaps: true, points: { show: false }, value: (_, v) => format(v), ...one }))],
      };
      box.replaceChildren();
      const plot = new uPlot(options, columns, box);
      drawn.push(plot);
      box.onkeydown = (event) => read(plot, event);
    });
  }

  // Arrow keys do what a mouse does: the legend reads the next point, with Shift the 25th.
  function read(plot, event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] * (event.shiftKey ? 25 : 1), last = plot.data[0].length - 1;
    if (!step) return;
    event.preventDefault();
    const at = Math.min(Math.max((plot.cursor.idx ?? (step > 0 ? -1 : last + 1)) + step, 0), last);
    plot.setCursor({ left: plot.valToPos(plot.data[0][at], "x"), top: 0 });
  }

  function draw(printed) {
    drawn.splice(0).forEach((plot) => plot.destroy());
    makers.forEach((make) => make(printed === true));
  }

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkness.matches);
  const button = document.getElementById("theme");
  function show(theme) {
    if (theme) root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(isDark()));
    draw();
  }

  function start() {
    show(["#dark", "#light"].includes(location.hash) ? location.hash.slice(1) : "");
    button.addEventListener("click", () => show(isDark() ? "light" : "dark"));
    darkness.addEventListener("change", () => show());
    let timer, width = innerWidth;
    addEventListener("resize", () => {  // phones resize when their bars hide: only another width matters
      if (innerWidth === width) return;
      width = innerWidth; clearTimeout(timer); timer = setTimeout(draw, 120);
    });
    let before;
    addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; draw(true); });
    addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; draw(); });
  }

  return { data, color, tone, minus, money, number, percent, shortPercent, chart, start };
})();
