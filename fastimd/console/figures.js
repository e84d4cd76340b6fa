// Numbers in the page's language.

const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
const BYTES = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

const number = (value, options) => new Intl.NumberFormat(document.documentElement.lang, options).format(value);

/** A count, or a rate, which may be a part of one. */
export const count = (value) => number(value, { maximumFractionDigits: value < 10 ? 1 : 0 });

export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < BYTES.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return number(value, { style: "unit", unit: BYTES[unit], unitDisplay: "narrow", maximumFractionDigits: value < 10 ? 1 : 0 });
}

/** Seconds as the two greatest units that there are of them. */
export function duration(seconds) {
  const first = Math.max(0, UNITS.findIndex(([, length]) => seconds >= length));
  const parts = [];
  let left = Math.max(0, Math.round(seconds));
  for (const [unit, length] of UNITS.slice(seconds < 1 ? 3 : first).slice(0, 2)) {
    const whole = Math.floor(left / length);
    left -= whole * length;
    if (whole || !parts.length) parts.push(number(whole, { style: "unit", unit, unitDisplay: "short" }));
  }
  return parts.join(" ");
}
