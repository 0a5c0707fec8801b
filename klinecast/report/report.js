// The report of one result: its charts, and the trades to sort and to take along.
(() => {
  "use strict";
  const { data, color, tone, minus, money, number, percent, shortPercent, chart } = page;
  const [ENTRY, EXIT, SIDE, QUANTITY, PAID, GOT, PROFIT, FEES, REASON, SERIES] = data.trades.keys();
  const NAMES = ["Entry (UTC)", "Exit (UTC)", "Side", "Quantity", "Entry price", "Exit price", "Profit", "Fees", "Exit by", "Series"];
  const COLUMNS = ["entry_time", "exit_time", "side", "quantity", "entry_price", "exit_price", "profit", "fees", "exit_reason", "series"];
  const rows = data.trades[ENTRY].map((_, i) => data.trades.map((column) => column[i]));

  function triangle(ctx, x, y, r, up) {
    ctx.beginPath(); ctx.moveTo(x - r, y + (up ? r : -r)); ctx.lineTo(x + r, y + (up ? r : -r)); ctx.lineTo(x, y + (up ? -r : r)); ctx.closePath(); ctx.fill(); ctx.stroke();
  }

  function markers(plot) {
    const { ctx, bbox } = plot, r = 4.5 * devicePixelRatio, gain = tone("--gain"), loss = tone("--loss");
    const place = (time, value, mark) => {
      const x = plot.valToPos(time / 1000, "x", true), y = plot.valToPos(value, "y", true);
      if (time >= 0 && x >= bbox.left && x <= bbox.left + bbox.width) mark(x, y);
    };
    ctx.save(); ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    for (const row of rows) {
      place(row[ENTRY], row[PAID], (x, y) => {
        ctx.lineWidth = devicePixelRatio; ctx.strokeStyle = color("--card"); ctx.fillStyle = row[SIDE] > 0 ? gain : loss;
        // Beside the price: a reversal exits and enters in one place.
        triangle(ctx, x, y + (row[SIDE] > 0 ? 2 : -2) * r, r, row[SIDE] > 0);
      });
      place(row[EXIT], row[GOT], (x, y) => {
        ctx.beginPath();
        if (row[PROFIT] >= 0) { ctx.fillStyle = gain; ctx.arc(x, y, 0.75 * r, 0, 7); ctx.fill(); return; }
        const d = 0.7 * r;
        ctx.lineWidth = 2 * devicePixelRatio; ctx.strokeStyle = loss;
        ctx.moveTo(x - d, y - d); ctx.lineTo(x + d, y + d); ctx.moveTo(x - d, y + d); ctx.lineTo(x + d, y - d); ctx.stroke();
      });
    }
    ctx.restore();
  }

  chart("equity", data.equity, () => [{ label: "equity", stroke: color("--c0"), width: 2 }, { label: "buy and hold", stroke: color("--soft"), dash: [5, 4] }], money, number);
  const below = { scales: { y: { range: (_, low) => [Math.min(low, -0.01) * 1.08, 0] } } };
  chart("drawdown", data.drawdown, () => [{ label: "drawdown", stroke: tone("--loss"), fill: tone("--loss", 0.22), fillTo: 0 }], percent, shortPercent, below);
  if (data.price) chart("price", data.price, () => [{ label: "close", stroke: color("--soft"), width: 1.25 }], number, number, { hooks: { draw: [markers] } });

  const [centers, counts, width] = data.spread, most = Math.max(1, ...counts);
  const bars = uPlot.paths.bars({ size: [0.86, 80] });
  const only = (sign) => counts.map((count, i) => (count && centers[i] * sign > 0 ? count : null));
  const digits = Math.max(0, Math.min(4, -Math.floor(Math.log10(width || 1))));
  const edge = (v) => minus(v.toFixed(digits));
  const range = (_, v) => (v == null ? "–" : `${edge(v - width / 2)} to ${edge(v + width / 2)}%`);
  chart("spread", [centers, only(-1), only(1)],
    () => [["losing trades", "--loss"], ["winning trades", "--gain"]].map(([label, name]) => ({ label, stroke: tone(name), fill: tone(name, 0.55), width: 1, paths: bars })),
    (v) => (v == null ? "–" : String(v)), (v) => (Number.isInteger(v) ? number(v) : ""),
    {
      scales: { x: { time: false, range: [centers[0] - width / 2, centers[centers.length - 1] + width / 2] }, y: { range: [0, most * 1.06] } },
      right: 26, x: { size: 34, values: (_, ticks) => ticks.map((v) => `${minus(String(+v.toPrecision(6)))}%`) }, first: { label: "return", value: range }, cursor: { points: { show: false }, drag: { x: false } },
    }, "No trade was closed.");

  const time = (ms) => (ms < 0 ? "open" : new Date(ms).toISOString().slice(0, 16).replace("T", " "));
  const side = (v) => (v > 0 ? "long" : "short"), plain = (v) => v;
  const show = [time, time, side, number, number, number, money, money, plain, plain];
  const words = new Set([ENTRY, EXIT, SIDE, REASON, SERIES]);
  const last = (v) => (v === -1 ? Infinity : v);  // a trade still open ends after all others
  let sorted = { column: ENTRY, up: true };
  const order = (column) => (a, b) => {
    const [x, y] = column === EXIT ? [last(a[column]), last(b[column])] : [a[column], b[column]];
    return x < y ? -1 : x > y ? 1 : 0;
  };

  function line(row) {
    const made = document.createElement("tr");
    row.forEach((value, i) => {
      const cell = document.createElement("td");
      cell.textContent = show[i](value);
      if (words.has(i)) cell.className = "words";
      if (i === PROFIT) cell.className = value >= 0 ? "up" : "down";
      made.append(cell);
    });
    return made;
  }

  function fill() {
    const { column, up } = sorted, compare = order(column);
    const lines = [...rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))).map(line);
    document.querySelector("#trades tbody").replaceChildren(...lines);
    document.querySelectorAll("#trades thead th").forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : up ? "ascending" : "descending"));
  }

  data.trades.forEach((_, i) => {
    const head = document.createElement("th"), button = document.createElement("button");
    head.scope = "col"; button.type = "button"; button.textContent = NAMES[i];
    if (words.has(i)) head.className = "words";
    button.addEventListener("click", () => { sorted = { column: i, up: sorted.column === i ? !sorted.up : true }; fill(); });
    head.append(button);
    document.querySelector("#trades thead tr").append(head);
  });

  const exact = [...Array(2).fill((ms) => (ms < 0 ? "" : new Date(ms).toISOString())), side];
  // A text that starts like a formula is one to a spreadsheet.
  const quoted = (text) => `"${(/^[=+@\t\r-]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
  const field = (value, i) => (value == null ? "" : i in exact ? exact[i](value) : typeof value === "string" ? quoted(value) : String(value));
  function csv() {
    return [COLUMNS.slice(0, data.trades.length), ...rows.map((row) => row.map(field))].map((one) => one.join(",") + "\r\n").join("");
  }
  const download = document.getElementById("csv");
  download.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = `trades-${data.id.replace(/[^\w-]/g, "")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  if (!rows.length) {
    download.hidden = true;
    document.querySelector("#trades").replaceWith(Object.assign(document.createElement("p"), { className: "empty", textContent: "No trade was made." }));
  } else fill();
  page.start();
})();
