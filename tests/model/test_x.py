def test_x(tiny_bert, judgements_csv, tmp_path):
    from embsearch.data.load import prepare_dataset, load_dataset
    from embsearch.config.schema import *
    d = load_dataset(DataConfig(path=str(judgements_csv)), tmp_path/"c")
    print(len(d.train), len(d.valid), len(d.test), len(d.texts))
    print({p.name for p in tiny_bert.iterdir()})
