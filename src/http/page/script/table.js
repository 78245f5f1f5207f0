// Draws the table, which shows the content of the treemap in accessible form. Each node of the tree keeps its
// row element from one drawing to the next, so that focus and selected text stay.

const NUMBERS = ['pss', 'rss', 'uss', 'swap', 'mappings', 'processes'], lines = new Map(), heads = {},
	blank = $.line.cloneNode(true);
blank.removeAttribute('id');
blank.removeAttribute('role');
blank.ariaHidden = 'true';
blank.setAttribute('viewBox', '0 0 88 22');
const sorting = () => state.sort || (isListing() ? '-limit' : '-share');
const sortOf = key => key.replace('-', '');
for (const key of ['name', 'limit', 'share', 'value', 'change', 'trend', ...NUMBERS]) {
	// The first click on a column head sorts names in ascending order, and numbers in descending order.
	const onclick = () => select({ sort: isSorted(key) === (key === 'name' ? 1 : -1)
		? (key === 'name' ? '-' : '') + key : (key === 'name' ? '' : '-') + key });
	$.head.append(heads[key] = make('th', { scope: 'col' }, key === 'trend' ? make('span', {}) : make('button',
		{ id: 'sort-' + key, onclick }, title(key))));
	heads[key].dataset.key = key;
}
put(heads.limit.firstChild, 'Use of limit');
heads.limit.title = 'Sorts by what is closest to its limit';
// Returns 1 if the rows are sorted by this column in ascending order, -1 in descending order, and 0 if they
// are not sorted by it. The column `value` shows the selected field, so it counts as sorted if the rows are
// sorted by that field.
function isSorted(key) {
	const by = sortOf(sorting());
	return key === by || key === 'value' && by === field.name ? sorting()[0] === '-' ? -1 : 1 : 0;
}
function fieldAt(key) { return key === 'share' || key === 'value' ? field : fields.get(key); }

function makeRow(n) {
	const row = { tr: make('tr'), link: make('a', { title: n.full }), bar: make('span', { className: 'bar' }),
		share: make('span'), note: make('span', { className: 'muted note' }),
		isNew: make('span', { className: 'new' }, 'new'), delta: make('span'), line: blank.cloneNode(true) };
	if (n.kind !== 'all') row.link.append(swatchOf(n.kind));
	row.link.append(make('bdi', { className: 'muted dir' }, n.dir), cutName(n.text), row.note);
	const cell = (key, ...inner) => {
		const td = row[key + 'Cell'] = make('td', {}, ...inner);
		td.dataset.key = key;
		return td;
	};
	row.tr.append(make('th', { scope: 'row' }, row.link), cell('limit'), cell('share', row.bar, row.share),
		cell('value'), cell('change', row.isNew, row.delta),
		cell('trend', row.line), ...NUMBERS.map(key => cell(key)));
	// A click anywhere in the row opens its link, unless text is selected.
	row.tr.onclick = e => { if (!e.target.closest('a') && !String(getSelection())) row.link.click(); };
	return row;
}
const collator = new Intl.Collator('en', { numeric: true });
const compareNames = (a, b) => collator.compare(a.dir, b.dir) || collator.compare(a.text, b.text)
	|| collator.compare(a.note || '', b.note || '') || a.i - b.i;
function sorted() {
	const key = sortOf(sorting()), sign = sorting()[0] === '-' ? -1 : 1;
	if (key === 'name') return [...rows].sort((a, b) => sign * compareNames(a, b));
	const f = fieldAt(key), by = key === 'change' ? n => change(field, n) : key === 'limit' ? used : n => f
		? at(f, n) : NaN;
	const list = rows.map(n => ({ n, v: by(n) }));
	return list.sort((a, b) => (a.v !== a.v) - (b.v !== b.v) || sign * (a.v - b.v) || compareNames(a.n, b.n))
		.map(({ n }) => n);
}
let first;
function drawTable() {
	if ($.list.hidden) return;
	const list = sorted(), shown = list.slice(0, limit), wanted = new Set(shown),
		focus = document.activeElement;
	first = list[0];
	drawListing();
	for (const key in heads) {
		const way = isSorted(key);
		heads[key].ariaSort = way ? way < 0 ? 'descending' : 'ascending' : null;
		if (key !== 'limit') heads[key].hidden = key === field.name;
	}
	put(heads.value.firstChild, title(field.name));
	for (const [n, row] of lines) {
		if (wanted.has(n)) continue;
		row.tr.remove();
		lines.delete(n);
	}
	const dots = new Map(shown.map(n => [n, growthOf(field, n)]));
	// The trend lines in all rows have the same scale, so that rows with much growth stand out. The full height
	// of a line stands for 2 * `half`.
	let half = field.bytes ? 524288 : 1;
	for (const d of dots.values()) if (d.length) half = max(half, (rangeOf(d).high - rangeOf(d).low) / 2);
	put(heads.trend.firstChild, `Trend (scale ±${show(field, half)})`);
	heads.trend.title = `All lines have one scale: their full height is ${show(field, 2 * half)}`;
	let spot = $.rows.firstChild;
	for (const n of shown) {
		if (!lines.has(n)) lines.set(n, makeRow(n));
		const row = lines.get(n);
		if (row.tr === spot) spot = spot.nextSibling;
		else $.rows.insertBefore(row.tr, spot);
		fillRow(row, n, dots.get(n), half);
	}
	if (focus !== document.activeElement && $.rows.contains(focus)) focus.focus({ preventScroll: true });
	put($.caption, state.q ? `What “${visible(state.q)}” finds in ${place.full}; each name leads there`
		: `${isListing() ? 'The containers' : 'What is'} in ${place.full}, sorted by `
		+ `${sortOf(sorting()) === 'limit' ? 'what is closest to its limit' : sortOf(sorting())}; each name `
		+ `leads inside`);
	$.none.hidden = rows.length;
	put($.none, `Nothing below ${place.full} has “${visible(state.q)}” in its name.`);
	$.more.hidden = list.length <= limit;
	put($.more, `Show more: ${count(list.length - limit)} further rows`);
	put($.since, `Change since ${sinceWhen('opening at ' + clock(since().base.t))}` + (isByOwn(field, place)
		? ', of private and swapped bytes and what is charged but not mapped: PSS also rises '
		+ 'when a neighbour ends' : ''));
	$.unmark.hidden = !marked;
}
function fillRow(row, n, dots, half) {
	const share = at(field, n) / at(field, place), d = dots.length ? lineOf(dots, 88, 22,
		rangeOf(dots).middle, half) : '';
	row.link.href = hrefOf(entered(targetOf(n)));
	put(row.note, n.note ? ' ' + n.note : '');
	put(row.share, percent(share));
	row.bar.style.transform = `scaleX(${min(1, share || 0)})`;
	for (const key of ['value', ...NUMBERS]) {
		const f = fieldAt(key), v = f ? at(f, n) : NaN, cell = row[key + 'Cell'];
		cell.hidden = key === field.name;
		if (cell.v === v && cell.f === f) continue;
		Object.assign(cell, { v, f, title: count(v), className: v ? '' : 'zero' });
		putValue(cell, f ? show(f, v) : '–', v);
	}
	row.limitCell.hidden = heads.limit.hidden;
	if (!heads.limit.hidden) {
		if (!row.use) row.limitCell.append(...(row.use = makeUse()).all);
		fillUse(row.use, accountOf(n), largestUse);
	}
	// A row is new if its node of the tree had no mappings at the start of the comparison. The comparison
	// starts when the page is opened, or when the user starts a measurement. Nodes for memory that no process
	// maps never have mappings. Such a node is new if it had no value in the selected field.
	const mappings = fields.get('mappings');
	row.isNew.hidden = !isNew(mappings && at(mappings, n) >= 0 ? mappings : field, n);
	drawChange(row.delta, n, change(field, n));
	if (row.line.d !== d) row.line.firstElementChild.setAttribute('d', row.line.d = d);
}
