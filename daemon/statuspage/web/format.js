// Numbers and times in words: numbers as the page's own language has them, times
// in the reader's form and zone.

const numbers = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const date = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false,
});

// skew is how far the daemon's clock is ahead of the browser's, in ms.
let skew = 0;

export function setNow(ms) { skew = ms - Date.now(); }
export function now() { return Date.now() + skew; }
export function number(n) { return numbers.format(n); }

// at is a time of day, with the date when it is not of the last day.
export function at(ms) { return (now() - ms < 86400e3 ? clock : date).format(ms); }

export function exact(ms) { return new Date(ms).toISOString(); }

// ago is how long ago something was.
export function ago(ms) {
  const s = Math.max(0, Math.round((now() - ms) / 1000));
  if (s < 2) return "just now";
  if (s < 100) return `${s} s ago`;
  if (s < 6000) return `${Math.round(s / 60)} min ago`;
  if (s < 86400) return `${Math.round(s / 3600)} h ago`;
  return at(ms);
}

export const marks = { ok: "✓", note: "○", bad: "✕" };
