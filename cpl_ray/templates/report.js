"use strict";
// Texts of questions are only ever put in as text nodes: nothing here makes markup of them.

(function questions() {
  const PAGE = 25, LONG = 320;
  const [ID, PART, FLIP, ASKED, TARGET, BEFORE, AFTER, MARGIN_BEFORE, MARGIN_AFTER, ERROR_BEFORE, ERROR_AFTER, RIGHT_BEFORE, RIGHT_AFTER] = Array(13).keys();
  const holder = document.getElementById("data");
  if (!holder) return;
  const { parts, flips, measure, rows } = JSON.parse(holder.textContent);
  const find = (id) => document.getElementById(id);
  const table = find("questions"), body = table.tBodies[0], form = find("filters");
  const hasMargins = !table.classList.contains("plain");
  let texts = null, found = rows, page = 0, words = [];

  const change = (row) => (row[MARGIN_BEFORE] === null || row[MARGIN_AFTER] === null ? null : row[MARGIN_AFTER] - row[MARGIN_BEFORE]);
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 2, minimumFractionDigits: 2 }).replace("-", "\u2212");
  const lower = (text) => String(text).toLocaleLowerCase();

  function searched() {
    if (texts === null) texts = rows.map((row) => lower([row[ID], row[ASKED], row[TARGET], row[BEFORE], row[AFTER]].join("\n")));
    return texts;
  }

  function byMargin(sign) {
    return (a, b) => {
      const x = change(a), y = change(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    };
  }

  function apply() {
    words = lower(find("search").value).split(/\s+/).filter(Boolean);
    const part = find("part").value, order = find("order").value;
    const flip = form.elements.flip.value;
    const counts = flips.map(() => 0), all = words.length ? searched() : null;
    found = rows.filter((row, index) => {
      if (part !== "" && row[PART] !== Number(part)) return false;
      if (all !== null && !words.every((word) => all[index].includes(word))) return false;
      counts[row[FLIP]] += 1;
      return flip === "" || row[FLIP] === Number(flip);
    });
    if (order === "loss") found.sort(byMargin(1));
    if (order === "gain") found.sort(byMargin(-1));
    if (order === "text") found.sort(((collator) => (a, b) => collator.compare(a[ASKED], b[ASKED]))(new Intl.Collator()));
    const total = counts.reduce((sum, count) => sum + count, 0);
    form.querySelectorAll(".chip b").forEach((place, index) => {
      place.textContent = (index === 0 ? total : counts[index - 1]).toLocaleString("en");
    });
    page = 0;
    show();
  }

  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** Put text into a node, with the words that were searched for marked. */
  function fill(node, text) {
    const where = lower(text);
    let at = 0;
    while (words.length && where.length === text.length) {
      const next = words.map((word) => [where.indexOf(word, at), word.length]).filter(([start]) => start >= 0).sort((a, b) => a[0] - b[0])[0];
      if (!next) break;
      node.append(text.slice(at, next[0]), element("mark", "", text.slice(next[0], next[0] + next[1])));
      at = next[0] + next[1];
    }
    node.append(text.slice(at));
  }

  function cell(name, text) {
    const made = element("td"), inner = element("bdi");
    if (name) made.dataset.name = name;
    inner.dir = "auto";
    text = text === null ? "–" : String(text);
    fill(inner, text.length > LONG && !words.length ? text.slice(0, LONG) + "…" : text);
    made.append(inner);
    if (text.length > LONG && !words.length) {
      const more = element("button", "more", "more");
      more.type = "button";
      more.addEventListener("click", () => { inner.textContent = text; more.remove(); });
      made.append(more);
    }
    return made;
  }

  function answer(name, text, right, error) {
    const made = cell(name, error !== null ? "could not be scored" : text);
    // outside of the text, whose direction may be the other one
    if (error !== null || right !== null) made.prepend(element("i", "sign", error !== null ? "!" : right ? "✓" : "✗"));
    if (error !== null) made.append(element("span", "tag", error));
    return made;
  }

  function line(row) {
    const made = element("tr"), asked = cell("", row[ASKED]);
    const tag = element("span", "tag");
    tag.append(element("i", "mark flip" + row[FLIP]), flips[row[FLIP]] + " · " + parts[row[PART]] + " · " + row[ID]);
    asked.append(tag);
    made.append(asked, cell("Right answer", row[TARGET]));
    made.append(answer("Before", row[BEFORE], row[RIGHT_BEFORE], row[ERROR_BEFORE]), answer("After", row[AFTER], row[RIGHT_AFTER], row[ERROR_AFTER]));
    if (hasMargins) {
      const difference = change(row), margin = element("td", "number");
      margin.dataset.name = measure;
      margin.append(difference === null ? "–" : (difference > 0 ? "+" : "") + number(difference));
      if (difference !== null) margin.append(element("span", "tag", number(row[MARGIN_BEFORE]) + " → " + number(row[MARGIN_AFTER])));
      made.append(margin);
    }
    return made;
  }

  function show() {
    const start = page * PAGE, end = Math.min(start + PAGE, found.length);
    body.replaceChildren(...found.slice(start, end).map(line));
    table.hidden = find("pages").hidden = found.length === 0;
    find("nothing").hidden = found.length > 0;
    find("place").textContent = (start + 1).toLocaleString("en") + "–" + end.toLocaleString("en") + " of " + found.length.toLocaleString("en");
    find("previous").disabled = page === 0;
    find("next").disabled = end >= found.length;
  }

  function turn(by) {
    page += by;
    show();
    form.scrollIntoView({ block: "start" });
  }

  let waiting = 0;
  find("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(apply, 120); });
  form.addEventListener("change", (event) => { if (event.target.id !== "search") apply(); });
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  find("clear").addEventListener("click", () => { form.reset(); apply(); find("search").focus(); });
  form.hidden = false;
  form.reset();
  apply();
})();

(function sortable() {
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const value = (row) => row.cells[column].dataset.order;
      const isNumber = Array.from(body.rows).every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
      const sorted = Array.from(body.rows).sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (isNumber ? Number(x) - Number(y) : x.localeCompare(y));
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...sorted);
    }));
  });
})();
