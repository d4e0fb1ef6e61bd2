// Draws every chart of the page, and again when the colours of the screen change or the page is printed.
(() => {
  const { charts, tables } = JSON.parse(document.getElementById("data").textContent);
  const light = { ink: "#1a1c1f", soft: "#565c65", line: "#e3e6ea",
                  states: ["#0b63b5", "#b45f06", "#b3261e", "#1b7f4b", "#6b7280", "#6b7280"],
                  models: ["#7a828e", "#b45f06", "#0b63b5", "#7a3fa8", "#2f7d32", "#a8324a"], kinds: ["#0b63b5", "#b45f06"] };
  const dark = { ink: "#e8eaed", soft: "#aab2bd", line: "#2c323a",
                 states: ["#6cb2ff", "#f5a95b", "#ff8a80", "#6fd39b", "#9aa3af", "#9aa3af"],
                 models: ["#9aa3af", "#f5a95b", "#6cb2ff", "#c79bf0", "#8fd694", "#f49aaa"], kinds: ["#6cb2ff", "#f5a95b"] };
  const font = getComputedStyle(document.body).fontFamily;  // measured in a canvas, so not "inherit"
  const config = ({ ink, soft, line, states, models, kinds }) => ({
    background: null, font, view: { stroke: null },
    axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
            titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12 },
    legend: { labelColor: ink, titleColor: soft, labelFontSize: 12, orient: "top", symbolOpacity: 1,
              columns: window.innerWidth < 600 ? 2 : 6,
              titleFontWeight: "normal" },
    range: { category: states, states, models, kinds }, mark: { color: states[0] }, rule: { color: soft }, text: { color: ink },
    line: { strokeCap: "round" },
  });
  const screen = window.matchMedia("(prefers-color-scheme: dark)");
  const draw = (theme) => Promise.all(charts.map(({ id, title, spec }) => {
    const whole = { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" }, datasets: tables, description: title, config: config(theme) };
    return vegaEmbed(`#chart-${id}`, whole, { renderer: "svg", actions: false, tooltip: { theme: theme === dark ? "dark" : "light" } });
  }));
  const shown = () => draw(screen.matches ? dark : light);
  screen.addEventListener("change", shown);
  window.addEventListener("beforeprint", () => draw(light));
  window.addEventListener("afterprint", shown);
  shown().then(() => {
    window.drawnAfter = performance.now();
    document.body.setAttribute("data-drawn", "true");
  });
})();
