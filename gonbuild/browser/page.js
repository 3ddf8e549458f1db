"use strict";
// Texts are put in with textContent alone: a story is whatever a model wrote.

const WORDS = {
  vi: {
    title: "Duyệt truyện", skip: "Tới thẻ bài", name: "Người duyệt", cards: "Thẻ bài", deck: "Bộ", state: "Tình trạng",
    reason: "Lý do loại", search: "Tìm tên thẻ, hiệu ứng, câu chữ", all: "Tất cả", close: "Đóng", keysTitle: "Phím tắt",
    open: "chưa duyệt", approve: "đã duyệt", pin: "đã ghim", edit: "đã sửa", ban: "đã bỏ", pending: "chờ dựng lại",
    stale: "ghim cũ", done: "xong", language: "English", languageCode: "en", shown: (n, m) => `${n}/${m} thẻ`,
    progress: (n, m) => `${n}/${m} truyện đã duyệt`, none: "Không có thẻ nào hợp với bộ lọc.", empty: "Thẻ này chưa có truyện.",
    before: "Trước", next: "Lần dựng tới sẽ thay bằng", score: "điểm mô hình", novelty: "giống truyện mẫu",
    doApprove: "Duyệt", doBan: "Bỏ", doPin: "Ghim", doEdit: "Sửa", doRate: "Chấm", doUndo: "Rút lại", prev: "Trước", nextCard: "Sau",
    back: "Danh sách", save: "Lưu", cancel: "Thôi", why: "Vì sao bỏ truyện này?", wording: "Câu chữ mới", candidates: "Ứng viên khác",
    dropped: (n) => `Bị loại (${n})`, more: (n) => `Thêm ${n} ứng viên`, use: (n) => `Chọn cho truyện ${n}`, noCandidates: "Máy này không giữ ứng viên nào khác của thẻ.",
    after: "Quyết định được ghi ngay vào cards/reviews.yaml. Chạy `make stories` để đưa vào bộ truyện.",
    staleTitle: "Ghim cho hiệu ứng cũ, không dùng nữa", gone: "Thay cho", by: "bởi", offline: "Không gặp được gonbuild nữa. Lệnh `gonbuild review --web` còn chạy không?",
    changed: "Thẻ vừa đổi ở nơi khác.", sense: "Có lý", card: "Đúng thẻ", effect: "Hiệu ứng", languageMark: "Lời văn",
    reasons: ["vô lý", "sai sự thật", "không hợp thẻ", "câu lủng củng", "nhàm, giống truyện khác"],
    keys: [["j / k", "thẻ sau / thẻ trước"], ["n", "thẻ chưa duyệt kế tiếp"], ["1 … 9", "chọn truyện"], ["a", "duyệt"], ["b", "bỏ"], ["p", "ghim"],
      ["e", "sửa"], ["r", "chấm điểm"], ["u", "rút lại"], ["/", "tìm"], ["Esc", "đóng"], ["?", "bảng này"]],
    filters: { ending: "kết câu", length: "độ dài", language: "tiếng Việt", repetition: "lặp từ", banned: "cấm", effect: "hiệu ứng",
      novelty: "giống mẫu", reference: "xa mẫu", diversity: "giống nhau" },
  },
  en: {
    title: "Story review", skip: "To the card", name: "Reviewer", cards: "Cards", deck: "Deck", state: "State",
    reason: "Drop reason", search: "Find a card, an effect, words", all: "All", close: "Close", keysTitle: "Keys",
    open: "undecided", approve: "approved", pin: "pinned", edit: "edited", ban: "banned", pending: "awaits a build",
    stale: "stale pin", done: "done", language: "Tiếng Việt", languageCode: "vi", shown: (n, m) => `${n} of ${m} cards`,
    progress: (n, m) => `${n} of ${m} stories accepted`, none: "No card fits the filters.", empty: "This card has no story yet.",
    before: "Before", next: "The next build puts here", score: "score", novelty: "near training",
    doApprove: "Approve", doBan: "Ban", doPin: "Pin", doEdit: "Edit", doRate: "Rate", doUndo: "Take back", prev: "Previous", nextCard: "Next",
    back: "List", save: "Save", cancel: "Cancel", why: "Why not this story?", wording: "New wording", candidates: "Other candidates",
    dropped: (n) => `Dropped (${n})`, more: (n) => `${n} more`, use: (n) => `Ship as story ${n}`, noCandidates: "This machine holds no other candidates of the card.",
    after: "Decisions are in cards/reviews.yaml at once. `make stories` brings them into the packs.",
    staleTitle: "Pinned for another effect, not in use", gone: "In place of", by: "by", offline: "gonbuild does not answer. Is `gonbuild review --web` still running?",
    changed: "The card has just changed elsewhere.", sense: "Sense", card: "Card", effect: "Effect", languageMark: "Language",
    reasons: ["makes no sense", "not true", "not about the card", "clumsy wording", "dull, like another story"],
    keys: [["j / k", "next / previous card"], ["n", "next undecided card"], ["1 … 9", "choose a story"], ["a", "approve"], ["b", "ban"], ["p", "pin"],
      ["e", "edit"], ["r", "rate"], ["u", "take back"], ["/", "search"], ["Esc", "close"], ["?", "this table"]],
    filters: {},
  },
};
const STATES = ["open", "approve", "pin", "edit", "ban", "pending", "stale", "done"];
const SHOWN = 5; // candidates before the fold
const ACCEPTED = new Set(["approve", "pin", "edit"]);

const $ = (id) => document.getElementById(id);
const recall = (key) => { try { return localStorage.getItem(`gonbuild.${key}`); } catch { return null; } };
const keep = (key, value) => { try { localStorage.setItem(`gonbuild.${key}`, value); } catch { /* private mode */ } };

let lang = recall("lang") === "en" ? "en" : "vi";
let t = WORDS[lang];
let cards = [], etag = "", current = "", sheet = null, chosen = 0, form = null;

function el(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const button = (label, key, onclick, more = {}) =>
  el("button", { type: "button", onclick, ...(key ? { "aria-keyshortcuts": key } : {}), ...more }, label, key ? el("kbd", { "aria-hidden": "true" }, key) : null);
const badge = (state) => el("span", { class: `badge ${state || "open"}` }, t[state || "open"]);
const vi = (name, props, text) => el(name, { lang: "vi", ...props }, text);

// --- asking the server

async function ask(path, options = {}) {
  try {
    const answer = await fetch(path, { cache: "no-store", credentials: "omit", ...options });
    if (answer.status === 304) return { status: 304 };
    const told = await answer.json();
    return { status: answer.status, told, etag: answer.headers.get("ETag") };
  } catch {
    return { status: 0, told: { problems: [t.offline] } };
  }
}

function say(problems) {
  $("banner").textContent = problems.join("\n");
  $("banner").hidden = !problems.length;
}

async function refresh() {
  const answer = await ask("api/cards", etag ? { headers: { "If-None-Match": etag } } : {});
  if (answer.status === 304) return say([]);
  if (answer.status !== 200) return say(answer.told.problems);
  say([]);
  etag = answer.etag;
  cards = answer.told.cards;
  if (!$("name").value) $("name").value = recall("name") ?? answer.told.by;
  fillSelects();
  showList();
  if (current && !form) await openCard(current, { quiet: true });
}

async function decide(action, text, more = {}) {
  const body = JSON.stringify({ action, card: current, text, by: $("name").value, ...more });
  const answer = await ask("api/decisions", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  if (answer.status !== 200) {
    const place = document.querySelector(".form .problem");
    if (place) place.textContent = answer.told.problems.join("\n");
    else say(answer.told.problems);
    return false;
  }
  form = null;
  sheet = answer.told.card;
  showSheet();
  await refresh();
  return true;
}

// --- the list

function visible() {
  const find = $("search").value.trim().toLowerCase().normalize("NFC");
  const [deck, state, reason] = ["deck", "state", "reason"].map((id) => $(id).value);
  return cards.filter((card) => {
    const states = card.stories.map((story) => story.state || "open");
    const fits = !state || (state === "done" ? card.done : state === "stale" ? card.stale : states.includes(state));
    const texts = [card.id, card.name, card.effect, ...card.stories.map((story) => story.text)].join("\n").toLowerCase();
    return fits && (!deck || card.deck === deck) && (!reason || card.reasons.includes(reason)) && texts.includes(find);
  });
}

function fillSelects() {
  const options = {
    deck: [...new Set(cards.map((card) => card.deck))].map((deck) => [deck, deck]),
    state: STATES.map((state) => [state, t[state]]),
    reason: [...new Set(cards.flatMap((card) => card.reasons))].sort().map((reason) => [reason, t.filters[reason] ?? reason]),
  };
  for (const [id, pairs] of Object.entries(options)) {
    const before = $(id).value;
    $(id).replaceChildren(el("option", { value: "" }, t.all), ...pairs.map(([value, label]) => el("option", { value }, label)));
    $(id).value = before;
  }
}

function showList() {
  const shown = visible();
  $("count").textContent = shown.length ? t.shown(shown.length, cards.length) : t.none;
  const stories = cards.flatMap((card) => card.stories);
  $("progress").textContent = t.progress(stories.filter((story) => ACCEPTED.has(story.state)).length, stories.length);
  $("cards").replaceChildren(...shown.map((card) => {
    const open = card.stories.some((story) => !story.state);
    const state = card.stale ? "stale" : open ? "open" : card.done ? "done" : card.stories.find((s) => !ACCEPTED.has(s.state))?.state ?? "open";
    const mark = el("span", { class: `badge ${state === "done" ? "approve" : state}` }, t[state]);
    const props = { type: "button", onclick: () => openCard(card.id), "aria-current": card.id === current ? "true" : null, "data-card": card.id };
    return el("li", {}, el("button", props, vi("span", {}, card.name), mark, vi("span", { class: "effect" }, card.effect)));
  }));
}

function step(by, wanted = () => true) {
  const shown = visible();
  if (!shown.length) return;
  const at = shown.findIndex((card) => card.id === current);
  for (let n = 1; n <= shown.length; n++) {
    const card = shown[(((at < 0 && by < 0 ? 0 : at) + by * n) % shown.length + shown.length) % shown.length];
    if (wanted(card)) return void openCard(card.id);
  }
}

// --- the sheet

async function openCard(id, { quiet = false } = {}) {
  const answer = await ask(`api/cards/${encodeURIComponent(id)}`);
  if (answer.status !== 200) return say(answer.told.problems);
  if (quiet && (form || id !== current)) return;
  if (id !== current) [chosen, form] = [0, null];
  current = id;
  sheet = answer.told;
  document.body.classList.add("open");
  if (location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  showSheet();
  showList();
  if (!quiet) {
    document.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
    if (matchMedia("(max-width: 820px)").matches) scrollTo(0, 0);
    $("sheet").focus({ preventScroll: true });
  }
}

function closeCard() {
  document.body.classList.remove("open");
  document.querySelector("[aria-current]")?.focus();
}

function showSheet() {
  const head = el("div", { class: "head" },
    vi("h2", {}, sheet.name), vi("p", {}, [...new Set([sheet.type, sheet.deck])].join(" · ")), el("p", {}, sheet.id),
    el("div", { class: "move" }, button(t.back, "", closeCard, { class: "back" }), button(t.prev, "k", () => step(-1)), button(t.nextCard, "j", () => step(1))),
    vi("p", { class: "tell" }, sheet.effect));
  const stale = sheet.pins.length ? el("div", { class: "stale" }, badge("stale"), ` ${t.staleTitle}:`,
    ...sheet.pins.map((pin) => el("p", {}, vi("span", {}, pin.text), " ", vi("small", {}, `(${pin.effect})`), " ",
      button(t.doUndo, "", () => decide("take back", pin.text))))) : null;
  const stories = sheet.stories.length ? sheet.stories.map(storyNode) : [el("p", { class: "story" }, t.empty)];
  $("sheet").replaceChildren(head, ...(stale ? [stale] : []),
    el("div", { class: "columns" }, el("div", {}, ...stories), candidatesNode()), el("p", { class: "after" }, t.after));
}

function storyNode(story, at) {
  const figures = story.score === null ? "" : `${t.score} ${story.score.toFixed(1)} · ${t.novelty} ${Math.round(story.novelty)}`;
  const tools = [
    button(t.doApprove, at === chosen ? "a" : "", () => decide("approve", story.text), { class: "main", disabled: ACCEPTED.has(story.state) }),
    button(t.doBan, at === chosen ? "b" : "", () => openForm(at, "ban")),
    button(t.doEdit, at === chosen ? "e" : "", () => openForm(at, "edit")),
    button(t.doPin, at === chosen ? "p" : "", () => decide("pin", story.text, { slot: story.slot })),
    button(t.doRate, at === chosen ? "r" : "", () => openForm(at, "rate")),
    story.decisions.length || story.next ? button(t.doUndo, at === chosen ? "u" : "", () => undo(story)) : null,
  ];
  const log = story.decisions.map((d) => [t[d.kind] ?? t.doRate, d.reason, Object.entries(d.scores).map(([name, score]) => `${markName(name)} ${score}`).join(", "),
    d.by && `${t.by} ${d.by}`].filter(Boolean).join(" · "));
  return el("article", { class: "story", "data-chosen": at === chosen, "aria-label": story.id, onfocusin: () => choose(at) },
    el("p", { class: "meta" }, el("strong", {}, story.id), badge(story.next ? "pending" : story.state), figures),
    vi("p", { class: "text" }, story.text),
    story.before && !ACCEPTED.has(story.state) ? wasNode(story.before, story.text) : null,
    story.next ? el("div", { class: "next" }, `${t.next}: `, vi("span", {}, story.next)) : null,
    el("div", { class: "tools" }, ...tools),
    form && form.at === at ? formNode(story) : null,
    log.length ? el("p", { class: "log" }, log.join("; ")) : null);
}

const markName = (name) => t[name === "language" ? "languageMark" : name];

function undo(story) {
  return decide("take back", story.next || story.text);
}

function choose(at) {
  if (at === chosen || !sheet.stories[at]) return;
  chosen = at;
  document.querySelectorAll(".story").forEach((node, n) => node.toggleAttribute("data-chosen", n === at));
}

function wasNode(before, now) {
  // The longest common words, as the pack shows them.
  const [a, b] = [before.split(" "), now.split(" ")];
  const length = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const node = vi("p", { class: "was" }, `${t.before}: `);
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { node.append(a[i++] + " "); j++; }
    else if (i < a.length && (j >= b.length || length[i + 1][j] >= length[i][j + 1])) node.append(el("del", {}, a[i++]), " ");
    else node.append(el("ins", {}, b[j++]), " ");
  }
  return node;
}

function candidatesNode() {
  const free = sheet.candidates.filter((c) => !c.filter);
  const dropped = sheet.candidates.filter((c) => c.filter);
  const wanted = $("reason").value;
  const item = (c) => el("li", {}, vi("p", {}, c.text), el("div", { class: "meta" },
    el("span", {}, `c${c.index}`), c.state ? badge(c.state) : null, c.filter ? el("span", { class: "badge ban" }, t.filters[c.filter] ?? c.filter) : null,
    c.score === null ? null : el("span", {}, `${t.score} ${c.score.toFixed(1)}`)),
    c.filter ? vi("p", { class: "why" }, c.reason) : null,
    el("div", { class: "tools" },
      ...Array.from({ length: sheet.slots }, (_, n) => button(t.use(n + 1), "", () => decide("pin", c.text, { slot: n + 1 }), { "data-use": n + 1 })),
      c.state ? button(t.doUndo, "", () => decide("take back", c.text)) : null));
  const shown = wanted ? dropped.filter((c) => c.filter === wanted) : dropped;
  return el("section", { class: "candidates" }, el("h3", {}, t.candidates),
    free.length || dropped.length ? null : el("p", {}, t.noCandidates),
    el("ul", {}, ...free.slice(0, SHOWN).map(item)),
    free.length > SHOWN ? el("details", {}, el("summary", {}, t.more(free.length - SHOWN)), el("ul", {}, ...free.slice(SHOWN).map(item))) : null,
    shown.length ? el("details", { open: Boolean(wanted) }, el("summary", {}, t.dropped(shown.length)), el("ul", {}, ...shown.map(item))) : null);
}

// --- forms in a story

function openForm(at, kind) {
  chosen = at;
  form = { at, kind, scores: {} };
  showSheet();
  document.querySelector(".form textarea, .form input, .form .marks button")?.focus();
}

function closeForm() {
  form = null;
  showSheet();
  document.querySelector(".story[data-chosen] button")?.focus();
}

function formNode(story) {
  const problem = el("p", { class: "problem", role: "alert" });
  const end = el("div", { class: "tools" }, el("button", { class: "main" }, t.save), button(t.cancel, "", closeForm));
  if (form.kind === "rate") {
    const rows = ["sense", "card", "effect", "language"].flatMap((name) => [el("span", {}, markName(name)),
      ...[1, 2, 3, 4, 5].map((score) => el("button", { type: "button", "aria-label": `${markName(name)} ${score}`, "aria-pressed": "false", onclick: (event) => {
        form.scores[name] = score;
        for (const other of event.currentTarget.parentNode.querySelectorAll(`[data-name=${name}]`)) other.setAttribute("aria-pressed", String(other === event.currentTarget));
      }, "data-name": name }, String(score)))]);
    return el("form", { class: "form", onsubmit: submit(() => decide("rate", story.text, { scores: form.scores })) }, el("div", { class: "marks" }, ...rows), problem, end);
  }
  const ban = form.kind === "ban";
  const field = ban ? el("input", { id: "field", maxlength: "300", autocomplete: "off" }) : vi("textarea", { id: "field", rows: "4" }, story.text);
  const chips = ban ? el("div", { class: "chips" }, ...t.reasons.map((reason) => button(reason, "", () => { field.value = reason; field.focus(); }))) : null;
  const send = () => ban ? decide("ban", story.text, { reason: field.value }) : decide("edit", story.text, { slot: story.slot, wording: field.value });
  return el("form", { class: "form", onsubmit: submit(send) }, el("label", { for: "field" }, ban ? t.why : t.wording), field, chips, problem, end);
}

const submit = (send) => (event) => { event.preventDefault(); send(); };

// --- keys, language, start

const KEYS = {
  j: () => step(1), k: () => step(-1), n: () => step(1, (card) => card.stories.some((story) => !story.state)),
  "/": () => $("search").focus(), "?": () => $("help").showModal(),
  a: (story) => decide("approve", story.text), p: (story) => decide("pin", story.text, { slot: story.slot }), u: undo,
  b: () => openForm(chosen, "ban"), e: () => openForm(chosen, "edit"), r: () => openForm(chosen, "rate"),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (form) closeForm();
    else document.activeElement?.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const story = sheet?.stories[chosen];
  if (/^[1-9]$/.test(event.key) && sheet?.stories[event.key - 1]) {
    chosen = event.key - 1;
    showSheet();
    document.querySelector(".story[data-chosen]")?.scrollIntoView({ block: "nearest" });
  } else if (KEYS[event.key] && (story || "jkn/?".includes(event.key))) KEYS[event.key](story);
  else return;
  event.preventDefault();
});

function speak() {
  t = WORDS[lang];
  document.documentElement.lang = lang;
  document.title = `${t.title} · gonbuild`;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t[node.dataset.t];
  $("search").placeholder = t.search;
  $("search").setAttribute("aria-label", t.search);
  $("lang").textContent = t.language;
  $("lang").lang = t.languageCode;
  $("keys").setAttribute("aria-label", t.keysTitle);
  $("help-list").replaceChildren(...t.keys.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]));
  fillSelects();
  showList();
  if (sheet) showSheet();
}

$("lang").addEventListener("click", () => { lang = t.languageCode; keep("lang", lang); speak(); });
$("keys").addEventListener("click", () => $("help").showModal());
document.querySelector("#help button").addEventListener("click", () => $("help").close());
$("name").addEventListener("change", () => keep("name", $("name").value));
$("filters").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "deck", "state", "reason"]) $(id).addEventListener("input", () => { showList(); if (id === "reason" && sheet) showSheet(); });

speak();
refresh().then(() => {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const wide = !matchMedia("(max-width: 820px)").matches;
  const first = cards.find((card) => card.id === wanted) ?? (wide ? cards[0] : null);
  if (first) openCard(first.id);
});
setInterval(() => { if (!document.hidden) refresh(); }, 3000);
