"use strict";
(() => {
  const body = document.querySelector("tbody");
  const rows = [...body.rows];
  const text = document.getElementById("text");
  const kinds = [...document.querySelectorAll("[data-kinds]")];
  const shown = document.getElementById("shown");
  const heads = [...document.querySelectorAll("th[data-sort]")];
  const numeric = new Set(["distance", "score", "verdict"]);
  const byText = new Intl.Collator(undefined, { numeric: true }).compare;
  let kind = "";

  function filter() {
    const part = text.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const { query, name = "" } = row.dataset;
      const named = query.toLowerCase().includes(part) || name.toLowerCase().includes(part);
      row.hidden = !(named && (kind === "" || kind.split(" ").includes(row.dataset.kind)));
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} shown`;
  }

  function sort(key, down) {
    // a row without the value comes last either way; sorting is stable
    const has = row => row.dataset[key] !== undefined && row.dataset[key] !== "";
    const compare = numeric.has(key)
      ? (a, b) => a.dataset[key] - b.dataset[key]
      : (a, b) => byText(a.dataset[key], b.dataset[key]);
    rows.sort((a, b) => has(b) - has(a) || (has(a) ? (down ? -1 : 1) * compare(a, b) : 0));
    body.append(...rows);
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(head.dataset.sort, down);
    });
  }
  for (const button of kinds) {
    button.addEventListener("click", () => {
      kind = button.dataset.kinds;
      kinds.forEach(other => other.setAttribute("aria-pressed", String(other === button)));
      filter();
    });
  }
  text.addEventListener("input", filter);
  document.getElementById("filters").hidden = false;
  // a page that is loaded again keeps what was typed
  filter();
})();
