"use strict";
// Draws the page's figures. Numbers and texts come packed, as inert as any other text; nothing is ever made of them
// but numbers, SVG text (by plotly.js, for which they are escaped) and text nodes.
(async () => {
  const root = document.documentElement;
  const hidden = new Set();

  async function unpacked(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // A colour is two, for a light ground and a dark one.
  function onGround(value, dark) {
    if (Array.isArray(value)) return value.map(of => onGround(of, dark));
    if (value === null || typeof value !== "object") return value;
    const found = {};
    for (const [key, of] of Object.entries(value)) {
      found[key] = (key === "color" || key === "fillcolor") && typeof of === "string"
        ? of.split("|").at(dark ? -1 : 0) : onGround(of, dark);
    }
    return found;
  }

  const told = value => value === null ? "undefined" : String(value).replace("-", "\u2212");

  function cellText(map, above, beside) {
    const [high, low] = above >= beside ? [above, beside] : [beside, above];
    const at = name => map[name] ? map[name][high][low] : null;
    const parts = [
      `${map.models[above]}: ${map.paths[above]}`,
      `${map.models[beside]}: ${map.paths[beside]}`,
      `<b>${map.label} ${told(at("value"))}</b>` + (at("error") ? ` ± ${at("error")}` : ""),
    ];
    if (at("chance") !== null) parts.push(`unrelated images: 0 ± ${at("chance")}`);
    if (at("p") !== null) {
      const p = at("p") < map.least ? `< ${map.least}` : `= ${at("p")}`;
      parts.push(`p ${p} (Holm)` + (at("p") >= map.alpha ? ": within chance" : ""));
    }
    return parts.join("<br>");
  }

  // A part of a map as a figure; the first layers at the lower left.
  function view(map, chosen, width) {
    const { rows, columns, ticks } = map.views[chosen];
    const z = [], hovertext = [], dots = { x: [], y: [] };
    for (let above = rows[0]; above < rows[1]; above++) {
      const numbers = [], texts = [];
      for (let beside = columns[0]; beside < columns[1]; beside++) {
        const [high, low] = above >= beside ? [above, beside] : [beside, above];
        numbers.push(map.value[high][low]);
        texts.push(cellText(map, above, beside));
        if (map.p && map.p[high][low] !== null && map.p[high][low] >= map.alpha) {
          dots.x.push(beside - columns[0]);
          dots.y.push(above - rows[0]);
        }
      }
      z.push(numbers);
      hovertext.push(texts);
    }
    // Room for labels is reckoned, and titles are placed by it: plotly.js places them before a map has its shape.
    const kept = (tick, room) => {
      const step = Math.ceil(tick.places.length / room), every = (_, place) => place % step === 0;
      return { places: tick.places.filter(every), texts: tick.texts.filter(every), title: tick.title };
    };
    const letters = tick => 7 * Math.max(...tick.texts.map(text => text.replace(/&[^;]*;/g, "x").length));
    const upwards = kept(ticks[0], 20), across = kept(ticks[1], 16);
    const left = 34 + letters(upwards);
    const turned = (letters(across) + 7) * across.texts.length > width - left - 12;
    const side = (tick, [start, end], toward) => ({
      tickvals: tick.places, ticktext: tick.texts, automargin: false,
      range: [-0.5, end - start - 0.5], showgrid: false, zeroline: false, constrain: "domain", constraintoward: toward,
    });
    const title = (text, more) => ({ text, showarrow: false, xref: "x domain", yref: "y domain", ...more });
    const below = turned ? letters(across) : 14;
    const border = (at, along) => ({
      type: "line", line: { color: "#ffffff", width: 1 }, layer: "above",
      ...(along === "x"
        ? { x0: at - 0.5, x1: at - 0.5, y0: -0.5, y1: rows[1] - rows[0] - 0.5 }
        : { y0: at - 0.5, y1: at - 0.5, x0: -0.5, x1: columns[1] - columns[0] - 0.5 }),
    });
    return {
      data: [{
        type: "heatmap", z, hovertext, hoverinfo: "text", zmin: 0, zmax: 1, colorscale: map.colours,
        colorbar: {
          title: { text: map.label, side: "top" }, orientation: "h", y: 1.01, yanchor: "bottom", thickness: 10,
          tickvals: [0, 0.25, 0.5, 0.75, 1], outlinewidth: 0,
        },
      }, {
        type: "scatter", mode: "markers", ...dots, hoverinfo: "skip", showlegend: false,
        marker: { color: "#ffffff", size: 4, line: { color: "#000000", width: 0.5 } },
      }],
      layout: {
        margin: { l: left, r: 12, t: 56, b: 30 + below },
        xaxis: { ...side(across, columns, "left"), tickangle: turned ? -90 : 0 },
        yaxis: { ...side(upwards, rows, "top"), scaleanchor: "x", scaleratio: 1 },
        annotations: [
          title(across.title, { x: 0.5, y: 0, yanchor: "top", yshift: -8 - below }),
          title(upwards.title, { x: 0, y: 0.5, xanchor: "right", xshift: -8 - letters(upwards), textangle: -90 }),
        ],
        shapes: [...ticks[1].borders.map(at => border(at, "x")), ...ticks[0].borders.map(at => border(at, "y"))],
      },
    };
  }

  function drawn(spec, place, printing) {
    const dark = !printing && matchMedia("(prefers-color-scheme: dark)").matches;
    const style = getComputedStyle(root), read = name => style.getPropertyValue(name).trim();
    const [ink, grid, ground] = ["--ink", "--line", "--ground"].map(read);
    const square = place.dataset.shape === "square";
    const width = printing ? (square ? 460 : 330) : undefined;
    const chosen = place.parentElement.querySelector("select");
    const figure = spec.map ? view(spec.map, Number(chosen?.value ?? 0), width ?? place.clientWidth) : onGround(spec, dark);
    for (const trace of figure.data) if (hidden.has(trace.meta)) trace.visible = false;
    const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true, ticks: "outside", tickcolor: grid };
    const layout = {
      margin: { l: 10, r: 10, t: 8, b: 10 },
      ...figure.layout,
      xaxis: { ...axis, ...figure.layout.xaxis },
      yaxis: { ...axis, ...figure.layout.yaxis },
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hovermode: "closest", autosize: !printing, width,
      height: printing ? (square ? 500 : 240) : place.clientHeight,
      hoverlabel: { bgcolor: ground, bordercolor: ink, font: { color: ink }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: grid, activecolor: ink },
      uirevision: "same", dragmode: "zoom",
    };
    const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    const picture = { format: "svg", filename: "figure" };
    const config = { displaylogo: false, responsive: true, modeBarButtons: buttons, toImageButtonOptions: picture };
    // `react` would keep the room that another part of a map took.
    return (spec.map ? Plotly.newPlot : Plotly.react)(place, figure.data, layout, config);
  }

  let specs;
  try {
    const [source, numbers] = await Promise.all([unpacked("plotly"), unpacked("numbers")]);
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    specs = JSON.parse(numbers);
  } catch (error) {
    document.getElementById("undrawn").hidden = false;
    throw error;
  }
  const places = [...document.querySelectorAll(".panel")];
  const draw = (which = places, printing = false) => which.map(place => drawn(specs[Number(place.dataset.figure)], place, printing));
  for (const select of document.querySelectorAll("select")) {
    select.addEventListener("change", () => draw([select.closest("figure").querySelector(".panel")]));
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const name = button.dataset.name, shown = hidden.has(name);
      if (shown) hidden.delete(name); else hidden.add(name);
      for (const same of document.querySelectorAll(".legend button")) {
        if (same.dataset.name === name) same.setAttribute("aria-pressed", String(shown));
      }
      draw();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => { root.classList.add("printing"); draw(places, true); });
  addEventListener("afterprint", () => { root.classList.remove("printing"); draw(); });
  await Promise.all(draw());
  root.classList.add("drawn");
})();
