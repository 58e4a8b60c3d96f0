// A click on a column's title sorts the rows of its table by it; a second one turns them around.
for (const title of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...title.childNodes);
  title.append(button);
  button.onclick = () => sort(title);
}

function sort(title) {
  const up = title.getAttribute("aria-sort") !== "ascending";
  for (const each of title.parentNode.children) each.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = title.closest("table").tBodies[0];
  const key = (row) => row.cells[title.cellIndex].textContent;
  const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b), up));
  body.append(...rows);
}

// Numbers by their value; what is no number comes last either way.
function compare(a, b, up) {
  const [x, y] = [parseFloat(a), parseFloat(b)];
  if (isNaN(x) && isNaN(y)) return a.localeCompare(b);
  if (isNaN(x) || isNaN(y)) return isNaN(x) === up ? 1 : -1;
  return x - y;
}

// A click on a figure shows it as wide as the window, or at its own size where that is more; another
// click, or Escape, closes it. With Ctrl, Shift or Cmd the link opens the file, as links do.
const large = document.createElement("dialog");
large.setAttribute("aria-label", "Figure");
large.onclick = () => large.close();
document.body.append(large);
for (const link of document.querySelectorAll("figure a")) {
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    large.replaceChildren(link.firstElementChild.cloneNode());
    large.showModal();
  };
}
