"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, css, text) => {
    const e = document.createElement(tag);
    if (css) e.className = css;
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const svg = (tag, attributes) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    return e;
  };
  const short = (v) => v === null || Number.isNaN(v) ? "–" : (Math.abs(v) >= 100 ? v.toFixed(0) : Math.abs(v) >= 10 ? v.toFixed(1) : Math.abs(v) >= 0.1 || v === 0 ? v.toFixed(2) : v.toPrecision(2)).replace("-", "−");
  const typing = (e) => e.target.matches?.("input, select, textarea") || e.ctrlKey || e.metaKey || e.altKey;
  const help = () => { const d = $("keys"); d.open ? d.close() : d.showModal(); };
  $("help")?.addEventListener("click", help);

  // ---- curves: what stands under the pointer, and a click that goes to the step -------------------------------
  function follow(curve, chosen) {
    const picture = curve.querySelector("svg"), box = picture.viewBox.baseVal;
    const points = JSON.parse(curve.dataset.points), names = JSON.parse(curve.dataset.names);
    const lines = [...picture.querySelectorAll("polyline")].map((l) => l.getAttribute("points").split(" ").map((p) => p.split(",").map(Number)));
    if (!lines.length) return;
    const cross = svg("line", { class: "cross", y1: 0, y2: box.height - 34, visibility: "hidden" });
    const dots = lines.map(() => svg("circle", { class: "here", r: 4, visibility: "hidden" }));
    const said = make("output");
    picture.append(cross, ...dots);
    curve.append(said);
    const at = (event) => {
      const area = picture.getBoundingClientRect(), x = ((event.clientX - area.left) / area.width) * box.width;
      let best = 0;
      lines[0].forEach(([px], i) => { if (Math.abs(px - x) < Math.abs(lines[0][best][0] - x)) best = i; });
      return best;
    };
    picture.addEventListener("pointermove", (event) => {
      const i = at(event), step = points[0][i][0];
      cross.setAttribute("x1", lines[0][i][0]); cross.setAttribute("x2", lines[0][i][0]);
      cross.setAttribute("visibility", "visible");
      const words = [];
      lines.forEach((line, s) => {
        const j = points[s].findIndex(([x]) => x === step);
        dots[s].setAttribute("visibility", j < 0 ? "hidden" : "visible");
        if (j < 0) return;
        dots[s].setAttribute("cx", line[j][0]); dots[s].setAttribute("cy", line[j][1]);
        words.push(points.length > 1 ? `${names[s]} ${short(points[s][j][1])}` : short(points[s][j][1]));
      });
      said.textContent = `step ${step}: ${words.join(", ")}`;
    });
    picture.addEventListener("pointerleave", () => {
      for (const e of [cross, ...dots]) e.setAttribute("visibility", "hidden");
      said.textContent = "";
    });
    picture.addEventListener("click", (event) => chosen(points[0][at(event)][0]));
  }

  // ---- the list -----------------------------------------------------------------------------------------------
  if ($("data")) {
    const PAGE = 50;
    const form = $("filters"), search = form.elements.q, body = $("list").tBodies[0], head = $("list").tHead;
    let data = JSON.parse($("data").textContent), rows = [], found = [], page = 0;
    const mean = (values) => { const k = values.filter((v) => v !== null); return k.length ? k.reduce((a, b) => a + b, 0) / k.length : null; };
    const spread = (values) => { const m = mean(values); return m === null ? null : Math.sqrt(mean(values.filter((v) => v !== null).map((v) => (v - m) ** 2))); };

    function table(side) {
      const c = data.sides[side];
      return c.key.map((key, i) => ({ key, step: c.step[i], sample: c.sample[i], clip: c.clip[i], text: c.text[i], kind: c.kind[i], stops: c.stops[i], turns: c.turns[i], scores: c.scores[i], mean: mean(c.scores[i]), spread: spread(c.scores[i]), words: `${c.text[i]} ${c.sample[i]}`.toLowerCase() }));
    }

    function options(select, values, kept) {
      const chosen = kept ?? select.value;
      select.replaceChildren(...values.map(([value, text]) => { const o = make("option", "", text); o.value = value; return o; }));
      select.value = values.some(([v]) => v === chosen) ? chosen : values[0][0];
    }

    const counted = (values) => { const n = new Map(); for (const v of values) n.set(v, (n.get(v) || 0) + 1); return [...n].sort((a, b) => b[1] - a[1]); };

    function load() {
      rows = table("a");
      if (data.sides.b) {
        const others = new Map();
        for (const r of table("b")) { if (!others.has(r.sample)) others.set(r.sample, []); others.get(r.sample).push(r); }
        for (const r of rows) {
          const same = others.get(r.sample);
          if (!same) continue;
          r.beside = same.reduce((a, b) => { const d = Math.abs(b.step - r.step) - Math.abs(a.step - r.step); return d < 0 || (d === 0 && b.step > a.step) ? b : a; });
          r.gain = r.mean === null || r.beside.mean === null ? null : r.beside.mean - r.mean;
        }
      }
      const score = data.sides.a.score;
      const stepped = rows.some((r) => r.step !== null);
      for (const e of document.querySelectorAll(".stepped")) e.hidden = !stepped;
      for (const e of document.querySelectorAll(".score-name")) e.textContent = score;
      for (const name of ["low", "high"]) form.elements[name].closest("label").hidden = !score;
      options(form.elements.stop, [["", "any"], ...counted(rows.flatMap((r) => r.stops)).map(([v, n]) => [v, `${v.replaceAll("_", " ")} (${n})`])]);
      options(form.elements.kind, [["", "any"], ...counted(rows.map((r) => r.kind)).map(([v, n]) => [v || "-", `${(v || "none").replaceAll("_", " ")} (${n})`])]);
      $("clips").replaceChildren(...counted(rows.map((r) => r.clip)).slice(0, 500).map(([v]) => { const o = make("option"); o.value = v; return o; }));
      const orders = [["newest", stepped ? "newest step first" : "as in the file"]];
      if (stepped) orders.push(["oldest", "oldest step first"]);
      if (score) orders.push(["best", `highest ${score}`], ["worst", `lowest ${score}`]);
      if (rows.some((r) => r.scores.length > 1)) orders.push(["spread", "widest spread"]);
      if (data.sides.b) orders.push(["gain", "B gains most"], ["loss", "B loses most"]);
      options(form.elements.sort, orders);
      const p = $("problems");
      p.hidden = !data.problems.length;
      p.textContent = data.problems.length > 3 ? `${data.problems.slice(0, 3).join("; ")}; and ${data.problems.length - 3} more` : data.problems.join("; ");
    }

    const NUMBERS = ["low", "high", "from", "to"];
    function wanted() {
      const w = Object.fromEntries([...form.elements].filter((e) => e.name).map((e) => [e.name, e.value.trim()]));
      for (const n of NUMBERS) w[n] = w[n] === "" || Number.isNaN(Number(w[n])) ? null : Number(w[n]);
      return w;
    }

    // A rollout fits if it ended so and has such a score; a group, if one of its rollouts does.
    const fits = (row, i, w) => (!w.stop || row.stops[i] === w.stop) && (w.low === null || (row.scores[i] !== null && row.scores[i] >= w.low)) && (w.high === null || (row.scores[i] !== null && row.scores[i] <= w.high));
    const last = (v) => v === null || v === undefined ? -Infinity : v;
    const ORDER = {
      newest: () => 0, oldest: (a, b) => a.step - b.step, best: (a, b) => last(b.mean) - last(a.mean), worst: (a, b) => last(a.mean ?? Infinity) - last(b.mean ?? Infinity),
      spread: (a, b) => last(b.spread) - last(a.spread), gain: (a, b) => last(b.gain) - last(a.gain), loss: (a, b) => (a.gain ?? Infinity) - (b.gain ?? Infinity),
    };

    function apply(keepPage) {
      const w = wanted(), words = w.q.toLowerCase().split(/\s+/).filter(Boolean);
      let rollouts = 0;
      found = rows.filter((r) => {
        if ((w.kind && (r.kind || "-") !== w.kind) || (w.clip && !r.clip.includes(w.clip))) return false;
        if ((w.from !== null && r.step < w.from) || (w.to !== null && r.step > w.to)) return false;
        if (!words.every((x) => r.words.includes(x))) return false;
        r.fit = r.stops.map((_, i) => fits(r, i, w));
        const n = r.fit.filter(Boolean).length;
        if (n) rollouts += n;
        return n > 0 || (!r.stops.length && !w.stop);
      });
      if (w.sort !== "newest") found.sort(ORDER[w.sort]);
      if (!keepPage) page = 0;
      const total = rows.reduce((n, r) => n + r.stops.length, 0), single = rows.every((r) => r.stops.length === 1);
      const n = (x) => x.toLocaleString("en");
      $("count").textContent = !rows.length ? "" : single ? `${n(found.length)} of ${n(rows.length)}` : `${n(rollouts)} of ${n(total)} rollouts, in ${n(found.length)} of ${n(rows.length)} groups`;
      remember(w);
      draw();
    }

    function remember(w) {
      const q = new URLSearchParams();
      for (const [k, v] of Object.entries(w)) if (v !== "" && v !== null && !(k === "sort" && v === "newest")) q.set(k, v);
      if (page) q.set("page", page + 1);
      history.replaceState(null, "", q.size ? `#${q}` : location.pathname + location.search);
      try { sessionStorage.setItem("list", location.hash); } catch { /* no storage from a file */ }
    }

    function recall() {
      let hash = location.hash;
      try { if (!hash && document.referrer.includes("group-")) hash = sessionStorage.getItem("list") || ""; } catch { /* as above */ }
      const q = new URLSearchParams(hash.slice(1));
      for (const e of form.elements) if (e.name && q.has(e.name)) e.value = q.get(e.name);
      page = Math.max(0, (Number(q.get("page")) || 1) - 1);
    }

    function columns() {
      const score = data.sides.a.score, many = rows.some((r) => r.scores.length > 1), c = [];
      if (rows.some((r) => r.step !== null)) c.push(["step", "n", (r) => r.step]);
      c.push(["expression", "words", words], ["kind", "", (r) => r.kind.replaceAll("_", " ")]);
      if (score && many) c.push([`${score} of each`, "", dots]);
      if (score) c.push([many ? "mean" : score, "n", (r) => short(r.mean)]);
      if (score && many) c.push(["spread", "n", (r) => short(r.spread)]);
      c.push([score || many ? "ended" : "verdict", "", stops], ["turns", "n", (r) => short(mean(r.turns)).replace(/\.00$/, "")]);
      if (data.sides.b) c.push(["beside B", "", beside]);
      return c;
    }

    function words(r) {
      const cell = make("span"), link = make("a", "", r.text || "(no text)");
      link.href = `group-a-${r.key}.html`;
      cell.append(link, make("span", "quiet", r.sample));
      return cell;
    }

    let low = 0, high = 1;
    function dots(r) {
      const s = svg("svg", { width: 124, height: 16, role: "img", "aria-label": r.scores.map(short).join(", ") });
      s.append(svg("line", { x1: 4, x2: 120, y1: 8, y2: 8 }));
      r.scores.forEach((v, i) => { if (v !== null) s.append(svg("circle", { cx: 6 + 112 * (high > low ? (v - low) / (high - low) : 0.5), cy: 8, r: 4, class: r.fit[i] ? "" : "off" })); });
      return s;
    }

    function stops(r) {
      const cell = make("span");
      for (const [v, n] of counted(r.stops)) cell.append(make("span", `stop ${v.split(":")[0]}`, v.replaceAll("_", " ") + (n > 1 ? ` ${n}` : "")));
      return cell;
    }

    function beside(r) {
      if (!r.beside) return make("span", "quiet", "not in B");
      const link = make("a", "beside", `${r.beside.step === null ? "" : `step ${r.beside.step}: `}${short(r.beside.mean)}`);
      link.href = `pair-${r.key}-and-${r.beside.key}.html`;
      const cell = make("span");
      cell.append(link, " ", make("span", r.gain > 0 ? "gain" : r.gain < 0 ? "loss" : "quiet", r.gain === null ? "" : `${r.gain > 0 ? "+" : ""}${short(r.gain)}`));
      return cell;
    }

    function draw() {
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      page = Math.min(page, pages - 1);
      const all = rows.flatMap((r) => r.scores).filter((v) => v !== null);
      low = all.reduce((a, b) => Math.min(a, b), Infinity); high = all.reduce((a, b) => Math.max(a, b), -Infinity);
      const shown = columns(), line = make("tr");
      for (const [name, css] of shown) { const h = make("th", css === "n" ? "n" : "", name); h.scope = "col"; line.append(h); }
      head.replaceChildren(line);
      body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((r) => {
        const tr = make("tr");
        tr.tabIndex = -1;
        tr.dataset.key = r.key;
        for (const [, css, value] of shown) {
          const v = value(r), td = make("td", css);
          td.append(v === null ? "–" : v);
          tr.append(td);
        }
        return tr;
      }));
      $("list").hidden = !found.length;
      $("none").hidden = found.length > 0;
      $("none").textContent = rows.length ? "Nothing fits these filters." : "No dialogues are kept here yet: trainer.keep_rollouts says how many a run of reinforcement keeps.";
      $("pages").hidden = pages < 2;
      $("page").textContent = `page ${page + 1} of ${pages}`;
      $("before").disabled = page === 0;
      $("after").disabled = page === pages - 1;
    }

    const turn = (by) => { page = Math.max(0, page + by); draw(); remember(wanted()); $("list").scrollIntoView({ block: "nearest" }); };
    const clear = () => { form.reset(); changed(); };
    const move = (by) => {
      const all = [...body.rows], i = all.indexOf(document.activeElement.closest?.("tr"));
      const next = all[Math.min(Math.max(i + by, 0), all.length - 1)];
      next?.focus();
    };
    const open = (row) => row?.querySelector("a")?.click();
    body.addEventListener("click", (event) => { if (!event.target.closest("a") && !String(getSelection())) open(event.target.closest("tr")); });
    // A field that is left without a change must not redraw: the row under the pointer would go between press and click.
    let applied = "";
    const changed = () => { const now = JSON.stringify(wanted()); if (now !== applied) { applied = now; apply(); } };
    for (const event of ["input", "change"]) form.addEventListener(event, changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    $("clear").addEventListener("click", clear);
    $("before").addEventListener("click", () => turn(-1));
    $("after").addEventListener("click", () => turn(1));
    const keys = { j: () => move(1), k: () => move(-1), n: () => turn(1), p: () => turn(-1), c: clear, "?": help };
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && event.target === search) search.blur();
      if (typing(event) || $("keys").open) return;
      if (event.key === "/") { event.preventDefault(); search.focus(); }
      else if (event.key === "Enter" && event.target.matches?.("tr")) open(event.target);
      else keys[event.key]?.();
    });

    const goTo = (step) => { if (rows.some((r) => r.step !== null)) { form.elements.from.value = form.elements.to.value = step; changed(); } };
    const curves = () => { for (const c of document.querySelectorAll(".curve")) follow(c, goTo); };
    load(); recall(); applied = JSON.stringify(wanted()); apply(true); curves();

    // ---- live: ask every other second whether anything is new ---------------------------------------------------
    if ($("data").dataset.live === "yes") {
      let known = JSON.stringify(data.stamp);
      const look = async () => {
        if (document.hidden) return;
        try {
          const now = await (await fetch("stamp.json")).json();
          $("state").className = `state ${now.state}`;
          $("state").textContent = now.state;
          if (JSON.stringify(now.stamp) === known) return;
          known = JSON.stringify(now.stamp);
          data = await (await fetch("index.json")).json();
          const opened = [...document.querySelectorAll("#curves details")].map((d) => d.open);
          const fresh = new DOMParser().parseFromString(await (await fetch("curves.html")).text(), "text/html");
          $("curves").replaceChildren(...fresh.body.childNodes);
          document.querySelectorAll("#curves details").forEach((d, i) => { if (i in opened) d.open = opened[i]; });
          const key = document.activeElement.closest?.("tr")?.dataset.key;
          load(); apply(true); curves();
          if (key) [...body.rows].find((r) => r.dataset.key === key)?.focus();
        } catch {
          $("state").className = "state stale";
          $("state").textContent = "the server does not answer";
        }
      };
      setInterval(look, 2000);
    }
  }

  // ---- a group ------------------------------------------------------------------------------------------------
  if (document.body.classList.contains("group")) {
    const columns = [...document.querySelectorAll(".column")];
    const turns = columns.map((c) => [...c.querySelectorAll(".turn")]);
    let column = 0, turn = -1;
    const settings = { masks: true, truth: false, think: false };
    try { Object.assign(settings, JSON.parse(sessionStorage.getItem("layers") || "{}")); } catch { /* no storage from a file */ }

    function layers() {
      document.body.classList.toggle("no-masks", !settings.masks);
      document.body.classList.toggle("show-truth", settings.truth);
      for (const d of document.querySelectorAll("details.think")) d.open = settings.think;
      for (const b of document.querySelectorAll("[data-toggle]")) b.setAttribute("aria-pressed", String(settings[b.dataset.toggle]));
      try { sessionStorage.setItem("layers", JSON.stringify(settings)); } catch { /* as above */ }
    }
    const toggle = (name) => { settings[name] = !settings[name]; layers(); };
    for (const b of document.querySelectorAll("[data-toggle]")) b.addEventListener("click", () => toggle(b.dataset.toggle));

    function show() {
      columns.forEach((c, i) => c.classList.toggle("here", i === column));
      for (const r of document.querySelectorAll("tr[data-column]")) r.classList.toggle("here", r.dataset.column === columns[column].id);
      const target = turn < 0 ? columns[column] : turns[column][turn];
      target.focus({ preventScroll: true });
      target.scrollIntoView({ block: turn < 0 ? "nearest" : "start", inline: "nearest" });
    }
    const across = (by) => { if (!columns.length) return; column = Math.min(Math.max(column + by, 0), columns.length - 1); turn = Math.min(turn, turns[column].length - 1); show(); };
    const down = (by) => { if (!columns.length) return; turn = Math.min(Math.max(turn + by, 0), turns[column].length - 1); show(); };
    document.addEventListener("focusin", (event) => {
      const c = columns.indexOf(event.target.closest(".column"));
      if (c < 0) return;
      column = c;
      turn = turns[c].indexOf(event.target.closest(".turn"));
    });
    const go = (id) => () => $(id)?.click();
    const up = () => document.querySelector("a.home").click();
    const keys = { j: () => down(1), ArrowDown: () => down(1), k: () => down(-1), ArrowUp: () => down(-1), l: () => across(1), ArrowRight: () => across(1), h: () => across(-1), ArrowLeft: () => across(-1), n: go("next"), p: go("previous"), m: () => toggle("masks"), g: () => toggle("truth"), t: () => toggle("think"), u: up, "?": help };
    document.addEventListener("keydown", (event) => {
      if (typing(event) || $("keys").open || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    layers();
  }
})();
