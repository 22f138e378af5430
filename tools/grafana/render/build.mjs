// Bundles render.jsx and what it needs into dist/, for tools/e2e/observe.
import { copyFileSync, cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';

const empty = {
  name: 'empty', // an editor of text that no panel needs: half of the bundle
  setup(b) {
    b.onResolve({ filter: /^(monaco-editor|react-monaco-editor|@monaco-editor)/ }, () => ({ path: 'empty', namespace: 'empty' }));
    b.onLoad({ filter: /.*/, namespace: 'empty' }, () => ({ contents: 'module.exports = new Proxy({}, { get: () => () => null });' }));
  },
};

await build({
  entryPoints: ['render.jsx'], outfile: 'dist/render.js', bundle: true, minify: true, format: 'iife', jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.woff': 'dataurl', '.woff2': 'dataurl', '.svg': 'dataurl' },
  plugins: [empty], logLevel: 'error', legalComments: 'none',
});
// Where Grafana's styles look for its font, and its panels for icons.
cpSync('node_modules/@grafana/ui/dist/public/img', 'dist/public/build/img', { recursive: true });
mkdirSync('dist/public/fonts/inter', { recursive: true });
for (const [weight, name] of [[400, 'Regular'], [500, 'Medium']]) {
  copyFileSync(`node_modules/@fontsource/inter/files/inter-latin-${weight}-normal.woff2`, `dist/public/fonts/inter/Inter-${name}.woff2`);
}
writeFileSync('dist/index.html', '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><link rel="stylesheet" href="render.css"><body><div id="root"></div><script src="render.js"></script>\n');
