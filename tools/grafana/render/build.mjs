// Bundles render.jsx and what it needs into dist/, for tools/e2e/observe.
import { writeFileSync } from 'node:fs';
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
writeFileSync('dist/index.html', '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="render.css"><body><div id="root"></div><script src="render.js"></script>\n');
