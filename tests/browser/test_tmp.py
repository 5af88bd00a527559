def test_evil(page):
    page.evaluate("() => new Promise(r => { const i = new Image(); i.onerror = r; i.src = 'https://evil.example/x.png'; })")
def test_throw(page):
    page.evaluate("() => { setTimeout(() => { throw new Error('boo'); }, 0); }"); page.wait_for_timeout(200)
