(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  document.getElementById("title").textContent = document.title;
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const money = (v) => (v == null ? "–" : v.toLocaleString("en-US", { maximumFractionDigits: 2 }));
  const percent = (v) => (v == null ? "–" : (100 * v).toFixed(2) + " %");
  const charts = [];

  function markers(plot) {
    const [entries, exits] = [data.trades[0], data.trades[1]];
    const draw = (time, price, up) => {
      if (time < 0) return;
      const x = plot.valToPos(time / 1000, "x", true), y = plot.valToPos(price, "y", true), r = 4 * devicePixelRatio;
      if (!(x >= plot.bbox.left && x <= plot.bbox.left + plot.bbox.width)) return;
      plot.ctx.fillStyle = `rgb(${color(up ? "--gain" : "--loss")})`;
      plot.ctx.beginPath();
      plot.ctx.moveTo(x - r, y + (up ? r : -r)); plot.ctx.lineTo(x + r, y + (up ? r : -r)); plot.ctx.lineTo(x, y + (up ? -r : r));
      plot.ctx.fill();
    };
    entries.forEach((time, i) => draw(time, data.trades[4][i], data.trades[2][i] > 0));
    exits.forEach((time, i) => draw(time, data.trades[5][i], data.trades[2][i] < 0));
  }

  function chart(id, columns, lines, format, hooks) {
    const box = document.getElementById(id);
    if (!data.time.length) { box.textContent = "Equity was not kept."; return; }
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
    const value = (_, v) => format(v);
    const options = {
      width: box.clientWidth, height: box.clientHeight - 36, hooks, tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), "UTC"),
      axes: [axis, { ...axis, size: 72, values: (_, ticks) => ticks.map(format) }],
      series: [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm}" }, ...lines.map(([label, stroke, fill]) => ({ label, stroke: color(stroke), fill, width: 1.5, value }))],
    };
    box.replaceChildren();
    charts.push([box, new uPlot(options, [data.time, ...columns], box)]);
  }

  function drawAll() {
    charts.splice(0).forEach(([, plot]) => plot.destroy());
    chart("equity", [data.equity, data.held], [["equity", "--a"], ["buy and hold", "--b"]], money);
    chart("drawdown", [data.drawdown], [["drawdown", "--a", `rgb(${color("--loss")} / 0.25)`]], percent);
    if (!data.several) chart("price", [data.close], [["close", "--b"]], money, { draw: [markers] });
  }

  const names = ["Entry (UTC)", "Exit (UTC)", "Side", "Quantity", "Entry price", "Exit price", "Profit", "Fees", "Reason", ...(data.several ? ["Series"] : [])];
  const time = (ms) => (ms < 0 ? "open" : new Date(ms).toISOString().slice(0, 16).replace("T", " "));
  const show = [time, time, (v) => (v > 0 ? "long" : "short"), (v) => v.toPrecision(6), money, money, money, money, (v) => v, (v) => v];
  const rows = data.trades[0].map((_, i) => data.trades.map((column) => column[i]));
  let sorted = { column: 0, up: true };
  function fillTrades() {
    const body = document.querySelector("#trades tbody"), { column, up } = sorted;
    rows.sort((a, b) => (a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : 0) * (up ? 1 : -1));
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      row.forEach((value, i) => { const cell = document.createElement("td"); cell.textContent = show[i](value); if (i === 6) cell.className = value >= 0 ? "gain" : "loss"; line.append(cell); });
      return line;
    }));
    document.querySelectorAll("#trades thead th").forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : up ? "ascending" : "descending"));
  }
  names.forEach((name, i) => {
    const head = document.createElement("th"), button = document.createElement("button");
    head.scope = "col"; button.type = "button"; button.textContent = name;
    button.addEventListener("click", () => { sorted = { column: i, up: sorted.column === i ? !sorted.up : true }; fillTrades(); });
    head.append(button); document.querySelector("#trades thead tr").append(head);
  });

  if (data.several) document.getElementById("prices").remove();  // prices of several series share no axis
  if (location.hash === "#dark" || location.hash === "#light") root.dataset.theme = location.hash.slice(1);
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark"; drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let timer; addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(drawAll, 150); });
  drawAll(); fillTrades();
})();
