// Builds services/gateway/static: `node build.mjs [another folder]`. The folder is written anew, all of it, once everything has
// been made. The same sources and lock give the same bytes on every machine.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { buildSync, transformSync } from "esbuild";
import { compile } from "sass";
import subsetFont from "subset-font";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../services/gateway/static"));
const packages = join(here, "node_modules");
const read = (...path) => readFileSync(join(...path));
const text = (...path) => read(...path).toString().replaceAll("\r\n", "\n");
const files = new Map();

function minified(source) {
  return transformSync(source, { minify: true, target: "es2022", legalComments: "none" }).code;
}

// A package's text with one thing changed. That thing has to be there: a new version must not slip through unchanged.
function changed(source, pattern, replacement) {
  if (!pattern.test(source)) throw new Error(`${pattern} is not there any more: look at what the package does now`);
  return source.replace(pattern, replacement);
}

async function styles() {
  const { css } = compile(join(here, "haven.scss"), { style: "compressed", charset: false, loadPaths: [packages] });
  files.set("haven.css", css + "\n");
  for (const script of ["latin", "latin-ext"]) {
    const font = `atkinson-hyperlegible-next-${script}-wght-normal.woff2`;
    const whole = read(packages, "@fontsource-variable/atkinson-hyperlegible-next/files", font);
    // Every letter and everything it can do, but only the weights that pages have: the others are two fifths of the bytes. What
    // the font says of its licence (13 and 14) stays in it.
    const weights = { keepAllGlyphs: true, preserveNameIds: [13, 14], variationAxes: { wght: { min: 400, max: 700 } } };
    files.set(`atkinson-hyperlegible-next-${script}.woff2`, await subsetFont(whole, undefined, { ...weights, targetFormat: "woff2" }));
  }
  files.set("favicon.svg", text(here, "favicon.svg"));
  // The same disc for home screens, drawn once: packing a picture gives other bytes on other machines.
  for (const name of ["icon-192.png", "icon-512.png", "icon-maskable.png"]) files.set(name, read(here, name));
}

function scripts() {
  for (const name of ["haven.js", "live.js", "kept.js", "worker.js"]) files.set(name, minified(text(here, name)));
  const govuk = buildSync({
    entryPoints: [join(here, "govuk.js")],
    absWorkingDir: here,
    bundle: true,
    write: false,
    minify: true,
    format: "iife",
    target: "es2022",
    legalComments: "none",
  });
  files.set("govuk.js", govuk.outputFiles[0].text);
  // One file: htmx starts as soon as it can, and must not start before the extension that checks nonces is there.
  const htmx = ["htmx.min.js", "ext/hx-csp.min.js"].map((name) => text(packages, "htmx.org/dist", name));
  files.set("htmx.js", htmx.map((source) => source.replace(/\n?\/\/# sourceMappingURL=.*\s*$/, "") + "\n").join(";\n"));
}

function swagger() {
  const dist = join(packages, "swagger-ui-dist");
  const bundle = changed(text(dist, "swagger-ui-bundle.js"), /swagger-ui-bundle\.js\.LICENSE\.txt/, "NOTICE");
  // Its default is to send the document to a validator on the web: here the default is to send it to nobody.
  files.set("swagger-ui.js", changed(bundle, /"https:\/\/validator\.swagger\.io\/validator"/g, "null") + "\n");
  files.set("api-docs.js", minified(text(here, "api-docs.js")));
  // Pictures written into the style sheet would need `img-src data:`; each becomes a file.
  const names = new Map();
  const url = /url\(\s*(?:"((?:\\.|[^"\\])*)"|(data:[^)"]*))\s*\)/g;
  const css = changed(text(dist, "swagger-ui.css"), /\n*\/\*# sourceMappingURL=[^*]*\*\/\s*$/, "\n");
  const filed = changed(css, url, (_, quoted, bare) => {
    const [, kind, body] = (quoted?.replace(/\\(.)/g, "$1") ?? bare).match(/^data:image\/([^;,]+)[^,]*,([\s\S]*)$/);
    const name = names.get(body) ?? `swagger-ui-${names.size + 1}.${kind.replace("svg+xml", "svg")}`;
    names.set(body, name);
    files.set(name, kind === "svg+xml" ? decodeURIComponent(body) + "\n" : Buffer.from(body, "base64"));
    return `url(${name})`;
  });
  files.set("swagger-ui.css", filed + transformSync(text(here, "api-docs.css"), { loader: "css", minify: true }).code);
}

function notice() {
  const swaggerDist = join(packages, "swagger-ui-dist");
  const vendored = {
    "@fontsource-variable/atkinson-hyperlegible-next": {
      files: "atkinson-hyperlegible-next-*.woff2",
      changes: "only the weights from 400 to 700",
      licence: (folder) => text(folder, "LICENSE"),
    },
    "govuk-frontend": {
      files: "haven.css and govuk.js, in part",
      changes: "compiled with another font and other colours, without crest, header, pictures and fonts",
      licence: () => text(here, "govuk-frontend.LICENSE"),
    },
    "htmx.org": {
      files: "htmx.js",
      changes: "none; htmx.min.js and hx-csp.min.js in one file",
      licence: (folder) => `Copyright: Big Sky Software, who the package names as its author\n\n${text(folder, "LICENSE")}`,
    },
    "swagger-ui-dist": {
      files: "swagger-ui.js, swagger-ui.css and swagger-ui-*",
      changes: "no validator on the web by default; pictures of the style sheet in files of their own; colours that can be read; no source maps",
      licence: (folder) =>
        [
          text(folder, "NOTICE"),
          text(folder, "LICENSE"),
          "What swagger-ui.js holds of others, as it says itself:\n",
          text(swaggerDist, "swagger-ui-bundle.js.LICENSE.txt"),
        ].join("\n"),
    },
  };
  const named = Object.keys(JSON.parse(text(here, "package.json")).dependencies);
  if (named.sort().join() !== Object.keys(vendored).sort().join()) throw new Error("NOTICE and package.json name other packages");
  const line = "=".repeat(80);
  const parts = Object.entries(vendored).map(([name, { files: what, changes, licence }]) => {
    const folder = join(packages, name);
    const about = JSON.parse(text(folder, "package.json"));
    const head = `${name} ${about.version}\nLicence: ${about.license}\nFiles: ${what}\nChanges: ${changes}\n`;
    const body = licence(folder)
      .split("\n")
      .map((row) => row.trimEnd())
      .join("\n");
    return `${line}\n${head}\n${body.trim()}\n`;
  });
  const intro =
    "What this folder holds of others. It is built from frontend/ by `make frontend`; nothing in it is written by hand.\n" +
    "haven.js, live.js, kept.js, worker.js, api-docs.js, favicon.svg, icon-*.png and the rest of haven.css are Haven's own, under the\n" +
    "EUPL-1.2.\n";
  files.set("NOTICE", [intro, ...parts].join("\n"));
}

function checksums() {
  const sum = (content) => createHash("sha256").update(content).digest("hex");
  const rows = [...files].map(([name, content]) => `${sum(content)}  ${name}\n`);
  files.set("checksums.txt", rows.sort((a, b) => (a.slice(66) < b.slice(66) ? -1 : 1)).join(""));
}

await styles();
scripts();
swagger();
notice();
checksums();

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
for (const [name, content] of files) writeFileSync(join(out, name), content);
