// The map: the density of all images, that of the chosen ones above it, and a box that leads to the images in it.

const canvas = document.getElementById("map");
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

if (canvas) {
  const context = canvas.getContext("2d");
  const status = document.getElementById("map-status");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const size = canvas.width;
  let data = null;
  let box = null; // x0, y0, x1, y1 as shares of the width
  let half = 0.05;
  let cursor = [0.5, 0.5];
  let start = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function paint(cells, style) {
    const most = Math.log1p(Math.max(...cells.map((row) => Math.max(...row))));
    const step = size / cells.length;
    context.fillStyle = style;
    cells.forEach((row, y) =>
      row.forEach((count, x) => {
        if (!count) return;
        context.globalAlpha = 0.22 + 0.78 * (Math.log1p(count) / most);
        context.fillRect(x * step, y * step, step, step);
      }),
    );
    context.globalAlpha = 1;
  }

  function draw() {
    context.clearRect(0, 0, size, size);
    if (!data) return;
    paint(data.all, colour(data.chosen ? "--soft" : "--kept"));
    if (data.chosen) paint(data.chosen, colour("--dropped"));
    if (!box) return;
    context.strokeStyle = colour("--ink");
    context.lineWidth = 3;
    const [x0, y0, x1, y1] = box;
    context.strokeRect(x0 * size, y0 * size, (x1 - x0) * size, (y1 - y0) * size);
  }

  function inBox() {
    const cells = data.chosen || data.all;
    const side = cells.length;
    let sum = 0;
    for (let y = Math.floor(box[1] * side); y < Math.min(side, Math.ceil(box[3] * side)); y++)
      for (let x = Math.floor(box[0] * side); x < Math.min(side, Math.ceil(box[2] * side)); x++) sum += cells[y][x];
    return sum;
  }

  function setBox(next) {
    const clip = (value) => Math.min(1, Math.max(0, value));
    box = [Math.min(next[0], next[2]), Math.min(next[1], next[3]), Math.max(next[0], next[2]), Math.max(next[1], next[3])].map(clip);
    draw();
    if (data) status.textContent = `About ${inBox().toLocaleString("en")} images in the box.`;
  }

  function show() {
    const url = new URL(canvas.dataset.rows, location.href);
    url.searchParams.set("box", box.map((value) => value.toFixed(4)).join(","));
    url.searchParams.delete("like");
    location.assign(url);
  }

  const place = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  };
  const around = () => setBox([cursor[0] - half, cursor[1] - half, cursor[0] + half, cursor[1] + half]);

  canvas.addEventListener("pointerdown", (event) => {
    start = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (start) setBox([...start, ...place(event)]);
  });
  canvas.addEventListener("pointerup", (event) => {
    const end = place(event);
    const moved = start && Math.hypot(end[0] - start[0], end[1] - start[1]) > 0.01;
    start = null;
    if (!moved) {
      cursor = end;
      half = 0.03;
      around();
    }
    show();
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) cursor = cursor.map((value, axis) => Math.min(1, Math.max(0, value + step[axis] * half * 0.5)));
    else if (event.key === "+" || event.key === "=") half = Math.min(0.5, half * 1.4);
    else if (event.key === "-") half = Math.max(0.01, half / 1.4);
    else if (event.key === "Enter" && box) return show();
    else return;
    event.preventDefault();
    around();
  });
  dark.addEventListener("change", draw);

  status.textContent = "Loading the map…";
  fetch(canvas.dataset.source)
    .then(async (response) => {
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      data = answer;
      document.getElementById("legend").hidden = !data.chosen;
      status.textContent = "";
      draw();
    })
    .catch((error) => {
      status.textContent = error.message;
    });
}
