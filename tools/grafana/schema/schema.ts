// The types of Grafana's that Lictor's dashboards use: one root a panel, so that
// an error names what is wrong with it.
import type * as D from './node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as TS from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type * as Stat from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as Bar from './node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen';
import type * as Table from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';

interface Target { refId: string; expr: string; legendFormat?: string; instant?: boolean; range?: boolean; format?: 'table' | 'time_series' | 'heatmap' }
type PanelOf<T extends string, O, F> = Omit<D.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: T; options: O; targets: Target[];
  fieldConfig: { defaults: Omit<D.FieldConfig, 'custom'> & { custom?: F }; overrides: D.FieldConfigSource['overrides'] };
};
export type timeseries = PanelOf<'timeseries', TS.Options, TS.FieldConfig>;
export type stat = PanelOf<'stat', Stat.Options, never>;
export type bargauge = PanelOf<'bargauge', Bar.Options, never>;
export type table = PanelOf<'table', Table.Options, Partial<Table.FieldConfig>>;
export type dashboard = Omit<D.Dashboard, 'panels'> & { panels: unknown[] };
