// Draws the panels of a dashboard as Grafana would, from answers that were asked for before, and says in the page's title how that went.
//
// `window.DASHBOARD` is what `cargo xtask fleet --pictures` writes: the panels as the dashboard has them, and for each target what Prometheus
// answered.

import {
  createDataFrame,
  createTheme,
  dateTime,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  reduceField,
  ThemeContext,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PortalContainer, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import React from 'react';
import { createRoot } from 'react-dom/client';

const { dashboard, answers, from, to } = window.DASHBOARD;
const theme = createTheme({ colors: { mode: 'dark' } });
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-7d', to: 'now' } };
// A dashboard has 24 columns, and rows of so many pixels with gaps between them.
const COLUMN = 64;
const ROW = 30;
const GAP = 8;
const errors = [];

// The name of a series, by the target's legend.
function legend(format, labels) {
  const name = (format ?? '').replace(/{{\s*(\w+)\s*}}/g, (_, label) => labels[label] ?? '');
  return name || JSON.stringify(labels);
}

// What a panel has where its dashboard does not say otherwise.
const usual = { timeseries: { color: { mode: 'palette-classic' } } };

// The field's configuration: the panel's, and what its overrides say of this field.
function configured(panel, field, frame) {
  const { defaults, overrides } = panel.fieldConfig;
  const config = { ...usual[panel.type], ...structuredClone(defaults) };
  const name = field.config?.displayName ?? getFieldDisplayName(field, frame);
  for (const { matcher, properties } of overrides ?? []) {
    const matches =
      (matcher.id === 'byName' && matcher.options === name) ||
      (matcher.id === 'byRegexp' && new RegExp(matcher.options.replace(/^\/|\/$/g, '')).test(name));
    for (const { id, value } of matches ? properties : []) {
      const path = id.split('.');
      const last = path.pop();
      path.reduce((at, key) => (at[key] ??= {}), config)[last] = value;
    }
  }
  field.config = { ...config, ...(field.config?.displayName && !config.displayName && { displayName: field.config.displayName }) };
  field.display = getDisplayProcessor({ field, theme });
  return field;
}

// A frame of these fields, which has this number among a panel's: colours go by it.
function frameOf(panel, fields, seriesIndex = 0) {
  const frame = createDataFrame({ fields });
  for (const field of frame.fields) {
    field.state = { seriesIndex };
    configured(panel, field, frame);
  }
  return frame;
}

// A frame for each series of a panel.
function series(panel) {
  let number = 0;
  return panel.targets.flatMap((target, place) =>
    answers[panel.id][place].map(({ metric, values, value }) => {
      const samples = values ?? [value];
      const fields = [
        { name: 'Time', type: FieldType.time, values: samples.map(([time]) => time * 1000), config: {} },
        {
          name: 'Value',
          type: FieldType.number,
          values: samples.map(([, sample]) => Number(sample)),
          labels: metric,
          config: { displayName: legend(target.legendFormat, metric) },
        },
      ];
      return frameOf(panel, fields, number++);
    }),
  );
}

// One frame with a column for each label.
function table(panel) {
  const rows = panel.targets.flatMap((_, place) => answers[panel.id][place]);
  const labels = [...new Set(rows.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const kept = panel.transformations?.find(({ id }) => id === 'filterFieldsByName')?.options.include;
  const keeps = (name) => !kept || kept.names?.includes(name) || (kept.pattern && new RegExp(kept.pattern).test(name));
  const fields = [
    ...labels.map((name) => ({ name, type: FieldType.string, values: rows.map(({ metric }) => metric[name] ?? ''), config: {} })),
    { name: 'Value', type: FieldType.number, values: rows.map(({ value }) => Number(value[1])), config: {} },
  ];
  const { indexByName = {}, renameByName = {} } = panel.transformations?.find(({ id }) => id === 'organize')?.options ?? {};
  const place = ({ name }) => indexByName[name] ?? fields.length;
  const shown = fields.filter(({ name }) => keeps(name)).sort((one, other) => place(one) - place(other));
  return frameOf(panel, shown.map((field) => ({ ...field, name: renameByName[field.name] ?? field.name })));
}

// Each series' one value, as the panel's options reduce it.
function reduced(panel) {
  const [how] = panel.options.reduceOptions?.calcs ?? ['lastNotNull'];
  return series(panel).map((frame) => {
    const [, field] = frame.fields;
    const value = field.display(reduceField({ field, reducers: [how] })[how]);
    return { field, value: { ...value, title: getFieldDisplayName(field, frame) } };
  });
}

const draw = {
  timeseries: ({ panel, width, height }) => (
    <TimeSeries
      frames={series(panel)}
      timeRange={timeRange}
      timeZone="utc"
      width={width}
      height={height}
      legend={{ calcs: [], showLegend: true, displayMode: 'list', placement: 'bottom', ...panel.options.legend }}
    />
  ),
  table: ({ panel, width, height }) => <TableNG data={table(panel)} width={width} height={height} />,
  stat: ({ panel, width, height }) => (
    <VizRepeater
      width={width}
      height={height}
      orientation="vertical"
      source={reduced(panel)}
      getValues={() => reduced(panel)}
      renderValue={({ value: { value }, width, height, count }) => (
        <BigValue
          value={value}
          width={width}
          height={height}
          count={count}
          theme={theme}
          colorMode={panel.options.colorMode ?? 'value'}
          graphMode="none"
          textMode={panel.options.textMode ?? 'auto'}
        />
      )}
    />
  ),
  bargauge: ({ panel, width, height }) => (
    <VizRepeater
      width={width}
      height={height}
      orientation={panel.options.orientation ?? 'horizontal'}
      minVizHeight={16}
      itemSpacing={8}
      source={reduced(panel)}
      getValues={() => reduced(panel)}
      renderValue={({ value: { field, value }, width, height }) => (
        <BarGauge
          value={value}
          field={field.config}
          display={field.display}
          width={width}
          height={height}
          theme={theme}
          orientation={panel.options.orientation ?? 'horizontal'}
          displayMode={panel.options.displayMode ?? 'basic'}
        />
      )}
    />
  ),
};

class Drawn extends React.Component {
  state = {};

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidCatch(error) {
    errors.push(`${this.props.panel.title}: ${error.message}`);
  }

  render() {
    const { panel, width, height } = this.props;
    const Panel = draw[panel.type];
    const empty = answers[panel.id].every((rows) => rows.length === 0);
    if (this.state.error) return <pre>{this.state.error.message}</pre>;
    if (empty) return <div className="empty">No data</div>;
    return <Panel panel={panel} width={width} height={height} />;
  }
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { left: x * COLUMN, top: y * (ROW + GAP), width: w * COLUMN - GAP, height: h * (ROW + GAP) - GAP };
  if (panel.type === 'row') {
    return <h2 style={place}>{panel.title}</h2>;
  }
  return (
    <section id={`panel-${panel.id}`} style={place}>
      <h3>{panel.title}</h3>
      <div className="drawing">
        <Drawn panel={panel} width={place.width - 18} height={place.height - 48} />
      </div>
    </section>
  );
}

// A panel that has data has drawn some of it: a canvas, or text.
function looks() {
  for (const panel of dashboard.panels.filter(({ type }) => type !== 'row')) {
    const drawing = document.querySelector(`#panel-${panel.id} .drawing`);
    const drawn = drawing?.querySelector('canvas') || drawing?.textContent.trim();
    if (!drawn) errors.push(`${panel.title}: nothing is drawn`);
  }
  document.title = errors.length ? `errors: ${JSON.stringify(errors)}` : 'all panels are drawn';
}

window.addEventListener('error', ({ message }) => errors.push(message));
const height = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h)) * (ROW + GAP);
createRoot(document.getElementById('page')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <h1>{dashboard.title}</h1>
    <main style={{ width: 24 * COLUMN, height }}>
      {dashboard.panels.map((panel) => (
        <Panel key={panel.id} panel={panel} />
      ))}
    </main>
    <PortalContainer />
  </ThemeContext.Provider>,
);
setTimeout(looks, 1500);
