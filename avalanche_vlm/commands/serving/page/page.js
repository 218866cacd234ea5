"use strict";
const of = (id) => document.getElementById(id);
let asked = 0;

async function answer(address, options) {
  const got = await fetch(address, options);
  const told = await got.json();
  if (!got.ok) throw new Error(told.error);
  return told;
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

async function ask(file) {
  const mine = ++asked;
  of("said").textContent = "";
  of("classes").hidden = true;
  URL.revokeObjectURL(of("shown").src);
  of("shown").src = URL.createObjectURL(file);
  of("shown").hidden = false;
  try {
    const headers = { "content-type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    const told = await answer("predict", { method: "POST", headers, body: file });
    if (mine !== asked) return; // another image was dropped since
    of("classes").tBodies[0].replaceChildren(
      ...told.classes.map((found) => {
        const row = document.createElement("tr");
        row.append(element("td", found.class), element("td", (100 * found.probability).toFixed(1) + " %"));
        return row;
      }),
    );
    of("classes").hidden = false;
    const by = told.module === null ? "" : "answered by the module " + told.module;
    of("said").textContent = told.out_of_distribution ? "no task of the model's knows such an image" : by;
  } catch (error) {
    if (mine === asked) of("said").textContent = error.message;
  }
}

of("file").addEventListener("change", (event) => event.target.files.length && ask(event.target.files[0]));
of("shown").addEventListener("error", () => { of("shown").hidden = true; }); // no image, or one that the browser cannot read
for (const kind of ["dragover", "dragleave", "drop"]) {
  of("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    of("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
}
of("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const told = await answer("search?text=" + encodeURIComponent(of("text").value));
    of("matches").replaceChildren(...told.matches.map((m) => element("li", m.image + " (" + m.similarity.toFixed(3) + ")")));
    of("said").textContent = "";
  } catch (error) {
    of("said").textContent = error.message;
  }
});
answer("health").then(
  (told) => {
    of("state").textContent = (told.version || "The model") + " answers.";
    of("search").hidden = told.images === 0;
  },
  (error) => { of("state").textContent = error.message; },
);
