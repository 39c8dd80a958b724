// What the pages add where scripts run: the takedown file's list, operators that fit a column, keys, and uploads.
// Text of the dataset is only ever set as text, never as markup.

const KEY = "takedown";
const MAX_TARGETS = 10000;
const byId = (id) => document.getElementById(id);

function chosen() {
  try {
    const list = JSON.parse(sessionStorage.getItem(KEY) || "[]");
    return Array.isArray(list) ? list.filter((one) => typeof one === "string") : [];
  } catch {
    return [];
  }
}

function showBasket() {
  const list = chosen();
  byId("basket").hidden = list.length === 0;
  byId("basket-count").textContent = `${list.length.toLocaleString("en")} chosen for a takedown file`;
  byId("basket-targets").value = list.join("\n");
  for (const box of document.querySelectorAll("[data-target]")) box.checked = list.includes(box.dataset.target);
}

document.addEventListener("change", (event) => {
  const target = event.target.dataset?.target;
  if (!target) return;
  const list = chosen().filter((one) => one !== target);
  if (event.target.checked && list.length < MAX_TARGETS) list.push(target);
  sessionStorage.setItem(KEY, JSON.stringify(list));
  showBasket();
});
byId("basket-clear").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  showBasket();
});
showBasket();

// An image that cannot be shown leaves its reason in its place.
for (const image of document.querySelectorAll(".card img")) {
  const fail = () => {
    const frame = image.closest(".frame");
    frame.classList.replace("filled", "empty");
    frame.textContent = "image cannot be shown";
  };
  if (image.complete && !image.naturalWidth && image.currentSrc) fail();
  else image.addEventListener("error", fail);
}

const column = byId("column");
if (column) {
  const fit = () => {
    const kind = column.selectedOptions[0]?.dataset.kind;
    const groups = [...byId("operator").querySelectorAll("optgroup")];
    for (const group of groups) group.hidden = group.disabled = group.dataset.kind !== kind;
    const current = byId("operator").selectedOptions[0]?.parentElement;
    if (!current || current.dataset.kind !== kind) {
      groups.find((group) => group.dataset.kind === kind).querySelector("option").selected = true;
    }
    byId("value").disabled = ["none", "any"].includes(byId("operator").value);
  };
  column.addEventListener("change", fit);
  byId("operator").addEventListener("change", fit);
  fit();
}

// "/" goes to the search, the arrow keys move from card to card.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName || "");
  if (event.key === "/" && !typing && byId("search")) {
    event.preventDefault();
    byId("search").focus();
    return;
  }
  const frames = [...document.querySelectorAll("#cards .frame")];
  const at = frames.indexOf(document.activeElement);
  if (at < 0) return;
  const perRow = frames.filter((frame) => frame.offsetTop === frames[0].offsetTop).length || 1;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow }[event.key];
  if (step && frames[at + step]) {
    event.preventDefault();
    frames[at + step].focus();
  }
});

async function answerOf(response) {
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

const upload = byId("upload");
if (upload) {
  upload.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = upload.elements.file.files[0];
    const message = byId("upload-message");
    if (!file) {
      message.textContent = "Choose an image file first.";
      return;
    }
    message.textContent = "Encoding the image…";
    try {
      const answer = await answerOf(await fetch("/upload", { method: "POST", body: file }));
      location.assign(`/?like=${encodeURIComponent(answer.like)}`);
    } catch (error) {
      message.textContent = error.message;
    }
  });
}

// The model is loaded while the user types.
const warm = () => fetch("/features", { method: "POST", body: new URLSearchParams({ action: "warm" }) });
document.querySelector("input[name=m]")?.addEventListener("focus", warm, { once: true });

// The state of the computation of features.
const progress = document.getElementById("features");

if (progress?.dataset.running) {
  const timer = setInterval(async () => {
    const answer = await (await fetch("/features.json")).json();
    if (answer.total) {
      progress.max = answer.total;
      progress.value = answer.done;
    }
    if (!answer.running) {
      clearInterval(timer);
      location.reload();
    }
  }, 1500);
}
