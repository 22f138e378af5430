// Makes the JSON schemas of this directory from Grafana's own types. For
// developers: npm install && npm run generate
import { writeFileSync } from 'node:fs';
import { createGenerator } from 'ts-json-schema-generator';

// What is only for people is left out: it is three quarters of it.
const bare = (node) =>
  Array.isArray(node) ? node.map(bare)
    : node === null || typeof node !== 'object' ? node
      : Object.fromEntries(Object.entries(node)
        .filter(([key, value]) => !(key === 'description' && typeof value === 'string'))
        .map(([key, value]) => [key, bare(value)]));

const generator = createGenerator({ path: 'schema.ts', type: '*', skipTypeCheck: true });
for (const type of ['dashboard', 'timeseries', 'stat', 'bargauge', 'table']) {
  writeFileSync(`${type}.json`, JSON.stringify(bare(generator.createSchema(type))) + '\n');
}
