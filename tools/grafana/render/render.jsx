// Draws a dashboard's JSON with Grafana's own panel components, from results of
// Prometheus that it is given: window.draw(dashboard, results, range, dark).
// Grafana's server does the layout, the frames of panels and the queries; here
// they are done by hand, as little of them as the dashboards need.
import {
  applyFieldOverrides, cacheFieldDisplayNames, createTheme, dateTime, FieldConfigOptionsRegistry, FieldType,
  getDisplayProcessor, getDisplayValueAlignmentFactors, getFieldDisplayValues, standardTransformers, standardTransformersRegistry, ThemeContext,
  toDataFrame, transformDataFrame,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';

standardTransformersRegistry.setInit(() => {
  const byID = new Map(Object.values(standardTransformers).filter((t) => t?.id).map((t) => [t.id, t])); // some have two names
  return [...byID].map(([id, t]) => ({ id, name: t.name, transformation: () => Promise.resolve(t) }));
});

// Which properties of a field's configuration there are, and where.
const standard = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'mappings', 'thresholds', 'links'];
const custom = ['drawStyle', 'lineInterpolation', 'lineWidth', 'fillOpacity', 'showPoints', 'spanNulls', 'stacking', 'align', 'minWidth', 'cellOptions', 'inspect'];
const property = (id, path, isCustom) => ({
  id, path, isCustom, name: id, process: (value) => value, shouldApply: () => true, override: () => null, editor: () => null, settings: {},
});
const registry = new FieldConfigOptionsRegistry(() => [
  ...standard.map((p) => property(p, p, false)), ...custom.map((p) => property(`custom.${p}`, p, true)),
]);

const legend = (format, labels) => (format || '').replace(/{{(\w+)}}/g, (_, name) => labels[name] ?? '');

// frames makes of a query's series what Grafana's Prometheus data source makes.
function frames(target, series, now) {
  if (target.format === 'table') {
    const labels = Object.keys(series[0]?.metric ?? {}).sort();
    return [toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: series.map(() => now) }, // that of the request, for all
        ...labels.map((l) => ({ name: l, type: FieldType.string, values: series.map((s) => s.metric[l]) })),
        { name: `Value #${target.refId}`, type: FieldType.number, values: series.map((s) => Number(s.value[1])) },
      ],
    })];
  }
  return series.map((s) => toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: s.values.map(([at]) => at * 1000) },
      {
        name: 'Value', type: FieldType.number, labels: s.metric, config: { displayNameFromDS: legend(target.legendFormat, s.metric) || 'Value' },
        values: s.values.map(([, v]) => (v === 'NaN' ? null : Number(v))),
      },
    ],
  }));
}

async function dataOf(panel, results, theme, now) {
  let data = panel.targets.flatMap((t) => frames(t, results[t.refId] ?? [], now));
  if (panel.transformations) {
    data = await lastValueFrom(transformDataFrame(panel.transformations, data, { interpolate: (s) => s }));
  }
  data = applyFieldOverrides({
    data, fieldConfig: panel.fieldConfig, fieldConfigRegistry: registry, replaceVariables: (s) => s, theme, timeZone: 'utc',
  });
  cacheFieldDisplayNames(data);
  for (const frame of data) {
    for (const field of frame.fields) {
      field.display ??= getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
  }
  return data;
}

function Panel({ panel, data, width, height, range, theme }) {
  const reduced = () => getFieldDisplayValues({
    data, fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (s) => s, theme, sparkline: panel.type === 'stat', timeZone: 'utc',
  });
  switch (panel.type) {
    case 'timeseries':
      return <TimeSeries frames={data} width={width} height={height} timeRange={range} timeZone="utc" legend={panel.options.legend} options={panel.options} />;
    case 'stat': {
      const [value] = reduced();
      return <BigValue value={value.display} width={width} height={height} theme={theme} colorMode={panel.options.colorMode}
        graphMode={panel.options.graphMode} justifyMode={panel.options.justifyMode} textMode={panel.options.textMode} sparkline={panel.options.graphMode === 'none' ? undefined : value.sparkline} />;
    }
    case 'bargauge': {
      return <VizRepeater source={data} getValues={reduced} width={width} height={height} renderCounter={0} orientation={panel.options.orientation}
        minVizHeight={panel.options.minVizHeight} minVizWidth={panel.options.minVizWidth} maxVizHeight={panel.options.maxVizHeight} itemSpacing={10}
        getAlignmentFactors={getDisplayValueAlignmentFactors}
        renderValue={(p) => (
          <BarGauge {...p} value={p.value.display} field={p.value.field} display={p.value.view?.getFieldDisplayProcessor(p.value.colIndex)} theme={theme}
            displayMode={panel.options.displayMode} showUnfilled={panel.options.showUnfilled} namePlacement={panel.options.namePlacement} />
        )} />;
    }
    case 'table':
      return <TableNG data={data[0]} width={width} height={height} sortBy={panel.options.sortBy} cellHeight={panel.options.cellHeight}
        fieldConfig={panel.fieldConfig} enableVirtualization={false} />;
    default:
      throw new Error(`no component for panels of type ${panel.type}`);
  }
}

const cell = 34, gap = 8;

window.draw = async (dashboard, results, from, to, dark, width) => {
  const theme = createTheme({ colors: { mode: dark ? 'dark' : 'light' } });
  const range = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
  const panels = await Promise.all(dashboard.panels.map(async (panel) => ({ panel, data: await dataOf(panel, results[panel.id], theme, to) })));
  const column = (width + gap - 32) / 24;
  const rows = Math.max(...dashboard.panels.map((p) => p.gridPos.y + p.gridPos.h));
  Object.assign(document.body.style, { background: theme.colors.background.canvas, margin: 0 });
  createRoot(document.getElementById('root')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <h1 style={{ font: '500 20px Inter', margin: '14px 16px' }}>{dashboard.title}</h1>
      <div style={{ position: 'relative', height: rows * cell + 16 }}>
        {panels.map(({ panel, data }) => {
          const g = panel.gridPos;
          const w = g.w * column - gap, h = g.h * cell - gap;
          return (
            <div key={panel.id} data-panel={panel.id} style={{ position: 'absolute', left: 16 + g.x * column, top: g.y * cell, width: w, height: h }}>
              <PanelChrome title={panel.title} width={w} height={h}>
                {(innerWidth, innerHeight) => <Panel panel={panel} data={data} width={innerWidth} height={innerHeight} range={range} theme={theme} />}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>,
  );
};
window.drawn = true;
