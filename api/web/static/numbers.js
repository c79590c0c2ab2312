// Numbers as people read them; the templates write them the same way.

/** 6160 as 6,160. */
export const count = (number) => Math.round(number).toLocaleString("en-US");

/** A share as a percentage; the space does not break. */
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;

/** Four figures of a loss or a rate; `none` where there is no number. */
export const figures = (number, none = "–") =>
  number === null ? none : String(Number(number.toPrecision(4)));

/** Bytes in MiB. */
export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
